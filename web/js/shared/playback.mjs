/**
 * Plays several videos by one clock. A browser lets each video run on its own and a little apart; here each
 * follows the clock, and the clock waits for the slowest.
 */

const NEAR = 0.02; // seconds that a video may be off before its pace is changed
const FAR = 0.3; // and before it jumps instead
const CATCH_UP_SECONDS = 0.5; // in which a small lag is made good
const SLOWEST = 0.25; // pace beside the others'

/** One clock over videos of any lengths: the shorter ones wait on their last frame, then all start again. */
export class Playback {
  /**
   * @param {HTMLVideoElement[]} videos
   * @param {(seconds: number) => void} onMove called as the time goes on or is set
   * @param {(playing: boolean) => void} onPlaying called when it starts or stops
   */
  constructor(videos, onMove, onPlaying) {
    this.videos = videos;
    this.clips = videos.map(() => ({ fps: 1, frames: 0 }));
    this.onMove = onMove;
    this.onPlaying = onPlaying;
    this.time = 0;
    this.speed = 1;
    this.playing = false;
    this.ticking = false;
    this.last = 0; // when the clock was read
  }

  /** Other clips, of which `fps` and `frames` are known; begins at 0. */
  load(clips) {
    this.clips = clips;
    this.seek(0);
  }

  /** How long the longest clip is, in seconds. */
  get seconds() {
    return Math.max(...this.clips.map((clip) => clip.frames / clip.fps));
  }

  /** The time from one frame to the next, of the clip that has the most of them. */
  get step() {
    return 1 / Math.max(...this.clips.map((clip) => clip.fps));
  }

  /** Whether there is but one frame to show. */
  get isStill() {
    return this.seconds <= this.step;
  }

  play() {
    if (this.playing || this.isStill) return;
    this.playing = true;
    if (this.time >= this.seconds - this.step) this.seek(0);
    this.onPlaying(true);
    this.wake();
  }

  /** Whether it stands still because the videos were not on the page, and they are now. */
  get canWake() {
    return this.playing && !this.ticking && this.isOnPage;
  }

  get isOnPage() {
    return this.videos.every((video) => video.isConnected);
  }

  /** Goes on after that. */
  wake() {
    if (this.ticking) return;
    this.ticking = true;
    this.last = performance.now();
    requestAnimationFrame((now) => this.#tick(now));
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.seek(this.time);
    this.onPlaying(false);
  }

  /** Shows the frames at a time, and goes on from there if it plays. */
  seek(seconds) {
    this.time = Math.min(Math.max(0, seconds), Math.max(0, this.seconds - this.step / 2));
    this.videos.forEach((video, index) => {
      video.pause();
      video.currentTime = this.#within(index);
    });
    this.onMove(this.time);
  }

  #tick(now) {
    this.ticking = this.playing && this.isOnPage;
    if (!this.ticking) return;
    const passed = ((now - this.last) / 1000) * this.speed;
    this.last = now;
    if (this.videos.every(isReady)) this.#advance(passed);
    requestAnimationFrame((later) => this.#tick(later));
  }

  #advance(passed) {
    this.time += Math.max(0, passed);
    if (this.time >= this.seconds) return this.seek(0);
    this.videos.forEach((video, index) => this.#follow(video, index));
    this.onMove(this.time);
  }

  /** Keeps a video at the clock's time, by its pace where that is enough. */
  #follow(video, index) {
    const lag = this.#within(index) - video.currentTime;
    if (this.time >= this.#end(index)) {
      video.pause();
      if (Math.abs(lag) > NEAR) video.currentTime = this.#within(index);
      return;
    }
    if (Math.abs(lag) > FAR) video.currentTime = this.#within(index);
    const pace = Math.abs(lag) > NEAR ? Math.max(SLOWEST, 1 + lag / CATCH_UP_SECONDS) : 1;
    video.playbackRate = this.speed * pace;
    if (video.paused) video.play().catch((error) => this.#refused(error));
  }

  /** A browser may want a click first. A video that was stopped before it began, as by a seek, goes on. */
  #refused(error) {
    if (error.name === "NotAllowedError") this.pause();
  }

  #end(index) {
    return this.clips[index].frames / this.clips[index].fps;
  }

  /** The clock's time in a clip, never on the border between two frames when it stands still. */
  #within(index) {
    const { fps, frames } = this.clips[index];
    if (this.playing && this.time < this.#end(index)) return this.time;
    return (Math.min(Math.floor(this.time * fps + 1e-6), frames - 1) + 0.5) / fps;
  }
}

/**
 * Lets go of a video's file; a page may hold only so many at once.
 * @param {HTMLVideoElement} video
 */
export function empty(video) {
  video.removeAttribute("src");
  video.load();
}

function isReady(video) {
  return !video.seeking && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
}
