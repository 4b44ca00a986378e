/**
 * A look as a picture: a figure in a frame, drawn from the phrases that the Aesthetic node chooses by name.
 *
 * Nothing here decides what a look may hold; a phrase that is not known here is drawn as if it were "none".
 */

import { figure, fromAbove } from "./figure.mjs";

const WIDE = 320;
const HIGH = 180;
const MIDDLE = WIDE / 2;

/** Sky above, sky at the horizon, ground, and how dark it is. */
const TIMES = {
  none: ["#48505c", "#7b8492", "#3a3f46", 0],
  "day time": ["#4f93d6", "#cfe5f6", "#6d9156", 0],
  "night time": ["#070c1e", "#1d2c50", "#131c26", 0.5],
  "dawn time": ["#46508c", "#f2bfb4", "#4f5263", 0.22],
  "sunrise time": ["#6d9ad2", "#ffd796", "#6d7350", 0.05],
  "sunset time": ["#3f3d78", "#ff8442", "#4b3b40", 0.2],
  "dusk time": ["#1d254f", "#80608f", "#252a3a", 0.36],
};

/** How tall the figure is and where its head begins, in the frame's units. */
const SHOTS = {
  none: [122, 40],
  "extreme wide shot": [30, 112],
  "wide shot": [128, 34],
  "medium wide shot": [196, 22],
  "medium shot": [290, 24],
  "medium close-up shot": [470, 20],
  "close-up shot": [900, 10],
  "extreme close-up shot": [2300, -98],
};

/** Where the horizon is, and how much wider the figure's feet are than its head. */
const ANGLES = {
  none: [112, 0],
  "eye-level shot": [96, 0],
  "low angle shot": [152, 0.75],
  "high angle shot": [44, -0.75],
  "Dutch angle shot": [112, 0],
  "over-the-shoulder shot": [104, 0],
  "aerial shot": [-30, 0],
  "overhead shot": [-30, 0],
};

const PLACES = {
  "left-heavy composition": 0.3,
  "right-heavy composition": 0.7,
  "balanced composition": 0.34,
  "short-side composition": 0.84,
};

/** How near the background comes, how soft it is, how much the horizon bulges, and the angle of view. */
const LENSES = {
  none: [1, 0, 0, 0],
  "fisheye lens": [0.6, 0, 34, 170],
  "wide-angle lens": [0.75, 0, 9, 96],
  "medium lens": [1, 0.6, 0, 50],
  "long-focus lens": [1.6, 1.8, 0, 26],
  "telephoto lens": [2.3, 3.2, 0, 11],
};

/** Where on the figure the shade begins, and where it is full. */
const EDGES = { none: [0.25, 0.75], "soft lighting": [0, 1], "hard lighting": [0.49, 0.51] };

const WARM = "#ff8a2a";
const COOL = "#2f86ff";

/**
 * The picture of a look.
 * @param {Object<string, string>} choices phrases by category; left out is "none"
 * @param {string} id starts the names inside, which must differ between the pictures of a page
 * @returns {string} SVG
 */
export function drawLook(choices, id) {
  const look = planned(choices, id);
  const above = look.angle === "overhead shot" || look.angle === "aerial shot";
  const scene = [
    sky(look),
    ground(look),
    surroundings(look),
    source(look),
    above ? fromAbove(look) : figure(look),
    foreground(look),
    tones(look),
  ].join("");
  return `<svg viewBox="0 0 ${WIDE} ${HIGH}" role="img" aria-label="the
      look">
    <defs>${definitions(look)}</defs>
    <g clip-path="url(#${id}frame)">
    <g filter="url(#${id}grade)">
    <g class="wancore-scene ${moveClass(look)}">
    <g id="${id}scene" filter="url(#${id}style)" transform="${tilt(look)}">${scene}</g>
    ${tiltShift(look)}</g></g>${overlay(look)}</g>
    ${guides(look)}${movement(look)}${angleOfView(look)}</svg>`;
}

/** The numbers of a look that several parts need. */
function planned(choices, id) {
  const chosen = (name) => choices[name] ?? "none";
  const time = chosen("time_of_day");
  const source = chosen("light_source");
  const moonlit = time === "none" && source === "moonlight";
  const [height, top] = SHOTS[chosen("shot_size")] ?? SHOTS.none;
  const [horizon, taper] = ANGLES[chosen("angle")] ?? ANGLES.none;
  const [nearness, softness, bulge, view] = LENSES[chosen("lens")] ?? LENSES.none;
  const [high, low, soil, dark] = TIMES[moonlit ? "night time" : time] ?? TIMES.none;
  const composition = chosen("composition");
  return {
    id, time, source, height, top, horizon, taper, nearness, softness, bulge, view, high, low, soil, dark,
    composition,
    x: WIDE * (PLACES[composition] ?? 0.5),
    style: chosen("style"),
    intensity: chosen("light_intensity"),
    direction: chosen("light_direction"),
    tone: chosen("color_tone"),
    saturation: chosen("saturation"),
    angle: chosen("angle"),
    move: chosen("camera_movement"),
  };
}

function definitions(look) {
  const { id } = look;
  const stop = (at, colour, opacity = 1) =>
    `<stop offset="${at}" stop-color="${colour}" stop-opacity="${opacity}"/>`;
  const across = (name, stops, more = "") =>
    `<linearGradient id="${id}${name}" ${more}>${stops}</linearGradient>`;
  const down = 'x1="0" y1="0" x2="0" y2="1"';
  const round = (name, colour) =>
    `<radialGradient id="${id}${name}">${stop(0, colour, 0.95)}${stop(1, colour, 0)}</radialGradient>`;
  const blur = look.softness + Math.max(0, look.height - 300) / 350;
  const frame =
    look.view > 150
      ? `<ellipse cx="${MIDDLE}" cy="90" rx="152" ry="88"/>`
      : `<rect width="${WIDE}" height="${HIGH}" rx="6"/>`;
  return [
    `<clipPath id="${id}frame">${frame}</clipPath>`,
    across("sky", stop(0, look.high) + stop(1, look.low), down),
    across("mixed", stop(0.2, WARM) + stop(0.8, COOL)),
    across("beam", stop(0, "#fff", 0.5) + stop(1, "#fff", 0), 'x1="0" y1="0" x2="1" y2="1"'),
    round("glow", "#fff3cf"), round("fire", "#ff7b1f"), round("lamp", "#ffdf9a"), round("moon", "#bcd4ff"),
    `<filter id="${id}blur"><feGaussianBlur stdDeviation="${blur}"/></filter>`,
    `<filter id="${id}soft"><feGaussianBlur stdDeviation="3"/></filter>`,
    `<filter id="${id}band"><feGaussianBlur stdDeviation="3.5"/></filter>`,
    `<filter id="${id}dark"><feColorMatrix values="0 0 0 0 .02 0 0 0 0 .03 0 0 0 0 .06 0 0 0 1 0"/></filter>`,
    `<filter id="${id}rim" x="-.4" y="-.4" width="1.8" height="1.8">
      <feMorphology operator="dilate" radius="1.6"/>
      <feColorMatrix values="0 0 0 0 1 0 0 0 0 .96 0 0 0 0 .85 0 0 0 1 0"/>
      <feGaussianBlur stdDeviation=".7"/></filter>`,
    `<filter id="${id}grade" x="0" y="0" width="1" height="1">${graded(look)}</filter>`,
    `<filter id="${id}style" x="-.1" y="-.1" width="1.2" height="1.2">${styled(look.style)}</filter>`,
    shadeMask(look, stop),
    `<mask id="${id}bands">
      <linearGradient id="${id}bandfade" ${down}>${stop(0.12, "#fff")}${stop(0.38, "#000")}
        ${stop(0.66, "#000")}${stop(0.9, "#fff")}</linearGradient>
      <rect width="${WIDE}" height="${HIGH}" fill="url(#${id}bandfade)"/></mask>`,
  ].join("");
}

/** Saturation, and what takes all colour. */
function graded({ saturation, style, source }) {
  const grey = style === "black and white animation";
  const levels = { "saturated colors": 2, "desaturated colors": 0.22 };
  const level = grey ? 0 : (levels[saturation] ?? 1) * (source === "overcast lighting" ? 0.75 : 1);
  return `<feColorMatrix type="saturate" values="${level}"/>`;
}

/** What a style does to every edge. */
function styled(style) {
  const rough = (frequency, scale, more = "") => `<feTurbulence type="fractalNoise"
      baseFrequency="${frequency}" numOctaves="2" seed="4" result="noise"/>
    <feDisplacementMap in="SourceGraphic" in2="noise" scale="${scale}" result="rough"/>${more}`;
  const effects = {
    "felt style": rough(0.9, 6),
    "claymation style": rough(0.035, 7, '<feMorphology operator="dilate" radius=".6"/>'),
    "watercolor painting": rough(0.05, 10, '<feGaussianBlur stdDeviation=".7"/>'),
    "oil painting style": rough(0.12, 9, '<feMorphology operator="dilate" radius="1.3"/>'),
    "pixel art style": `<feFlood x="2" y="2" width="1" height="1"/>
      <feComposite width="5" height="5"/>
      <feTile result="dots"/>
      <feComposite in="SourceGraphic" in2="dots" operator="in"/>
      <feMorphology operator="dilate" radius="2.5"/>`,
  };
  return effects[style] ?? '<feOffset dx="0"/>';
}

/** Where the figure is dark, by the direction of the light: abruptly in hard light, gently in soft. */
function shadeMask({ id, direction, intensity, x, top, height }, stop) {
  const [from, to] = EDGES[intensity] ?? EDGES.none;
  const wide = Math.min(height * 0.34, 170);
  const [y1, y2] = [Math.max(top, 0), Math.min(top + height, HIGH)];
  const lines = {
    "top lighting": [x, y1, x, y2],
    underlighting: [x, y2, x, y1],
    "side lighting": [x - wide / 2, 0, x + wide / 2, 0],
  };
  const [ax, ay, bx, by] = lines[direction] ?? lines["side lighting"];
  return `<linearGradient id="${id}shadefade"
      gradientUnits="userSpaceOnUse" x1="${ax}" y1="${ay}" x2="${bx}" y2="${by}">
    ${stop(from, "#000")}${stop(to, "#fff")}</linearGradient>
    <mask id="${id}shade" maskUnits="userSpaceOnUse" x="-100" y="-100" width="600" height="400">
    <rect x="-100" y="-100" width="600" height="400" fill="url(#${id}shadefade)"/></mask>`;
}

function sky(look) {
  const { id, time, source, horizon, nearness } = look;
  const sun = (y, colour, radius) =>
    `<circle cx="232" cy="${y}" r="${radius * 2.6 * nearness}"
        fill="url(#${id}glow)" opacity=".7"/>
      <circle cx="232" cy="${y}" r="${radius * nearness}" fill="${colour}"/>`;
  const night = look.dark > 0.45;
  const parts = [`<rect x="-60" y="-60" width="440" height="${horizon + 62}" fill="url(#${id}sky)"/>`];
  if (time === "sunrise time") parts.push(sun(horizon - 6, "#fff0b8", 13));
  if (time === "sunset time") parts.push(sun(horizon - 3, "#ffcf6b", 17));
  if (source === "sunny lighting") parts.push(rays(id));
  if (night) parts.push(stars());
  if (source === "moonlight" || (night && source === "none")) parts.push(moon(id));
  if (source === "overcast lighting") parts.push(clouds("#c3c9d1", 1.25));
  else if (time === "day time") parts.push(clouds("#ffffff", 0.8));
  return `<g filter="url(#${id}blur)">${parts.join("")}</g>`;
}

function rays(id) {
  const spokes = Array.from({ length: 12 }, (_, one) => {
    const turn = (one * Math.PI) / 6;
    const [x, y] = [Math.cos(turn), Math.sin(turn)];
    return `<path d="M${266 + x * 17} ${32 + y * 17}L${266 + x * 25} ${32 + y * 25}"/>`;
  });
  return `<circle cx="266" cy="32" r="52" fill="url(#${id}glow)"
      opacity=".8"/>
    <circle cx="266" cy="32" r="13" fill="#fff2b0"/>
    <g stroke="#fff2b0" stroke-width="2.4" stroke-linecap="round">${spokes.join("")}</g>`;
}

function stars() {
  const dots = Array.from({ length: 34 }, (_, one) => {
    const [x, y] = [(one * 97) % 331, (one * 53) % 89];
    return `<circle cx="${x}" cy="${y}" r="${0.5 + (one % 3) * 0.3}"/>`;
  });
  return `<g fill="#e8efff" opacity=".85">${dots.join("")}</g>`;
}

function moon(id) {
  return `<circle cx="258" cy="34" r="46" fill="url(#${id}moon)"
      opacity=".7"/>
    <circle cx="258" cy="34" r="13" fill="#eef3ff"/>
    <circle cx="253" cy="31" r="2.5" fill="#cfd9ee"/>
    <circle cx="261" cy="38" r="3.4" fill="#cfd9ee"/>`;
}

function clouds(colour, size) {
  const one = (x, y, scale) =>
    `<g transform="translate(${x} ${y}) scale(${scale * size})">
      <ellipse rx="26" ry="8"/>
      <ellipse cx="-9" cy="-5" rx="12" ry="8"/>
      <ellipse cx="8" cy="-7" rx="14" ry="10"/></g>`;
  return `<g fill="${colour}" opacity=".8">${one(64, 34, 1)}${one(168, 22, 0.8)}${one(280, 50, 1.1)}</g>`;
}

function ground(look) {
  const { id, horizon, soil, low, bulge, nearness, view } = look;
  const edge = (y) => `M-60 ${y + bulge * 0.4}Q${MIDDLE} ${y - bulge} 380 ${y + bulge * 0.4}`;
  const hill = (x, width, rise) => `Q${x} ${horizon - rise * nearness} ${x + width} ${horizon}`;
  const hills = `<path d="M-60
      ${horizon}${hill(-10, 80, 34)}${hill(150, 130, 44)}${hill(310, 170, 38)}L380 ${horizon + 12}H-60Z"
      fill="${low}"/>
    <path d="M-60 ${horizon}${hill(-10, 80, 34)}${hill(150, 130, 44)} ${hill(310, 170, 38)}L380
      ${horizon + 12}H-60Z" fill="${soil}" opacity=".62"/>`;
  const spread = view > 90 ? 46 : 26;
  const lines = Array.from({ length: 13 }, (_, one) => {
    const away = one - 6;
    return `M${MIDDLE + away * 9} ${horizon}L${MIDDLE + away * spread * 2.4} 250`;
  });
  const rows = [0.1, 0.25, 0.5, 0.85].map((part) => `M-60 ${horizon + part * 100}H380`);
  return `<g filter="url(#${id}blur)">
    ${horizon > 0 ? hills : ""}<path d="${edge(horizon)}V260H-60Z" fill="${soil}"/>
    <path d="${lines.join("")}${rows.join("")}" stroke="#fff" stroke-opacity=".09" fill="none"/></g>`;
}

/** What a composition and a style put beside the figure. */
function surroundings(look) {
  const { composition, horizon, style, id } = look;
  const column = (x) => `<g transform="translate(${x} ${horizon})">
    <rect x="-9" y="-66" width="18" height="84" fill="#8c8f98"/>
    <rect x="-12" y="-70" width="24" height="6" fill="#a9acb4"/>
    <rect x="-12" y="14" width="24" height="6" fill="#a9acb4"/>
    <rect x="2" y="-64" width="7" height="78" fill="#000" opacity=".18"/></g>`;
  const tree = `<g transform="translate(236 ${Math.max(horizon, 60)})">
    <rect x="-3" y="-20" width="6" height="40" fill="#5b4636"/>
    <circle cy="-36" r="24" fill="#4f7d4a"/>
    <circle cx="-15" cy="-24" r="15" fill="#457043"/>
    <circle cx="15" cy="-25" r="15" fill="#5a8a53"/></g>`;
  const trails = `<g fill="none" stroke-linecap="round" stroke-width="2.2"
      opacity=".9">
    <path stroke="#ff5247" d="M-20 176C90 160 150 140 250 ${horizon + 4}"/>
    <path stroke="#ffe2a1" d="M-20 186C110 172 190 146 266 ${horizon + 4}"/>
    <g stroke="#fff" stroke-width="1.4" opacity=".55">
    <path d="M20 30Q90 22 160 34"/>
    <path d="M120 52Q200 40 280 54"/>
    <path d="M210 22Q260 16 320 26"/></g></g>`;
  return [
    composition === "symmetrical composition" ? column(62) + column(258) : "",
    composition === "balanced composition" ? `<g filter="url(#${id}blur)">${tree}</g>` : "",
    style === "time-lapse photography" ? trails : "",
  ].join("");
}

/** The lamp, the fire or the tubes, where the light's source can be seen. */
function source({ id, source: name }) {
  const flame = (x, size) => `<path transform="translate(${x} 168) scale(${size})" d="M0 0C-13
      -8 -9 -20 -3 -26C-3 -18 2 -18 3 -34C12 -24 15 -8 0 0Z"/>`;
  const drawn = {
    daylight: `<path d="M-20 -20H130L210 200H-20Z" fill="url(#${id}beam)"/>`,
    firelight: `<circle cx="52" cy="150" r="130" fill="url(#${id}fire)"
        opacity=".75"/>
      <g fill="#ff8a1f">${flame(52, 1.2)}</g>
      <g fill="#ffd45c">${flame(53, 0.6)}</g>
      <path d="M32 168H74" stroke="#4b3325" stroke-width="6" stroke-linecap="round"/>`,
    "practical lighting": `<circle cx="262" cy="64" r="84" fill="url(#${id}lamp)"
        opacity=".85"/>
      <path d="M262 0V46" stroke="#22252b" stroke-width="2"/>
      <path d="M250 58L256 45H268L274 58Z" fill="#2c3036"/>
      <circle cx="262" cy="61" r="6" fill="#fff6d8"/>`,
    "artificial lighting": `<path d="M40 22L270 190H96Z" fill="url(#${id}beam)"
        opacity=".9"/>
      <g transform="translate(34 22) rotate(38)">
      <rect x="-17" y="-9" width="34" height="18" rx="2" fill="#22252b"/>
      <rect x="12" y="-11" width="6" height="22" fill="#f7fbff"/></g>`,
    "fluorescent lighting": `<g fill="#f2fff6">
      <rect x="70" y="9" width="76" height="4" rx="2"/>
      <rect x="176" y="9" width="76" height="4" rx="2"/></g>
      <path d="M60 12H262L310 190H10Z" fill="#d6ffe6" opacity=".16"/>`,
  };
  return drawn[name] ?? "";
}

function foreground({ angle, x }) {
  if (angle !== "over-the-shoulder shot") return "";
  const flip = x < MIDDLE - 20 ? `translate(${WIDE} 0) scale(-1 1)` : "";
  return `<g transform="${flip}" fill="#12151a">
    <ellipse cx="52" cy="74" rx="34" ry="42"/>
    <path d="M-40 190V150C-20 122 14 112 34 110H72C112 116 128 150 132 190Z"/></g>`;
}

/** Washes of colour over everything. */
function tones({ id, tone, source: name }) {
  const wash = (fill, opacity, blend) => `<rect x="-60" y="-60" width="440" height="320" fill="${fill}"
      opacity="${opacity}" style="mix-blend-mode:${blend}"/>`;
  const fills = { "warm colors": WARM, "cool colors": COOL, "mixed colors": `url(#${id}mixed)` };
  const fill = fills[tone];
  const dims = { firelight: 0.32, "practical lighting": 0.3, "artificial lighting": 0.18 };
  return [
    dims[name] ? wash("#1c1630", dims[name], "multiply") : "",
    name === "moonlight" ? wash("#3c62b8", 0.25, "soft-light") : "",
    name === "overcast lighting" ? wash("#8e99a6", 0.28, "normal") : "",
    fill ? wash(fill, 0.75, "soft-light") + wash(fill, 0.16, "normal") : "",
  ].join("");
}

/** What a style lays over the picture. */
function overlay({ style, id }) {
  const cover = (fill, opacity) =>
    `<rect width="${WIDE}" height="${HIGH}" fill="${fill}" opacity="${opacity}"/>`;
  const drawn = {
    "documentary photography style": `<filter id="${id}grain">
      <feTurbulence type="fractalNoise" baseFrequency="1.1" numOctaves="1"/>
      <feColorMatrix values="0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 .9 -.35"/></filter>
      <rect width="${WIDE}" height="${HIGH}" filter="url(#${id}grain)" opacity=".35"/>`,
    "watercolor painting": `${cover("#fbf5e6", 0.16)}
      <rect x="2" y="2" width="316" height="176" rx="16" fill="none" stroke="#fbf5e6" stroke-width="12"
        filter="url(#${id}soft)"/>`,
    "black and white animation": `<path d="M0 0H${WIDE}V${HIGH}H0ZM${MIDDLE} -14A170 104 0 1 0
        ${MIDDLE + 0.1} -14Z" fill="#050505" fill-rule="evenodd" opacity=".8"/>`,
    "3D game style": `<g fill="none" stroke="#fff" stroke-width="1.4" opacity=".8">
      <circle cx="${MIDDLE}" cy="90" r="5"/>
      <path d="M${MIDDLE} 80V84M${MIDDLE} 96V100M150 90H154M166 90H170"/>
      <circle cx="292" cy="28" r="17" fill="#0b1016" fill-opacity=".55"/></g>
      <path d="M292 22L296 34L292 31L288 34Z" fill="#8fbf6f"/>
      <rect x="14" y="14" width="74" height="6" rx="3" fill="#0b1016" opacity=".7"/>
      <rect x="14" y="14" width="52" height="6" rx="3" fill="#8fbf6f"/>`,
    "3D cartoon style": `<path d="M0 0H${WIDE}V60Q160 20 0 74Z" fill="#fff" opacity=".12"/>`,
    "claymation style": cover("#ffe9c9", 0.08),
    "oil painting style": cover("#6b4a1c", 0.1),
  };
  return drawn[style] ?? "";
}

function tiltShift({ style, id }) {
  if (style !== "tilt-shift photography") return "";
  return `<g mask="url(#${id}bands)"><use href="#${id}scene" filter="url(#${id}band)"/></g>`;
}

function tilt({ angle }) {
  return angle === "Dutch angle shot" ? `rotate(-13 ${MIDDLE} 90) translate(-32 -18) scale(1.2)` : "";
}

/** Thin lines that show what a composition means. */
function guides({ composition }) {
  const upright = (x) => `M${x} 0V${HIGH}`;
  const lines = {
    "center composition": `${upright(MIDDLE)}M0 90H${WIDE}`,
    "symmetrical composition": upright(MIDDLE),
    "left-heavy composition": upright(WIDE / 3),
    "right-heavy composition": upright((2 * WIDE) / 3),
    "balanced composition": upright(WIDE / 3) + upright((2 * WIDE) / 3),
    "short-side composition": upright((4 * WIDE) / 5),
  };
  const path = lines[composition];
  return path
    ? `<path d="${path}" stroke="#fff" stroke-opacity=".45" stroke-dasharray="3 4" fill="none"/>`
    : "";
}

const MOVES = {
  "the camera pushes in": "in",
  "the camera pulls back": "out",
  "the camera pans left": "left",
  "the camera pans right": "right",
  "the camera tilts up": "up",
  "the camera tilts down": "down",
  "tracking shot": "track",
  "arc shot": "arc",
  "handheld camera": "hand",
  "static shot": "static",
};

function moveClass({ move }) {
  return MOVES[move] ? `wancore-move-${MOVES[move]}` : "";
}

/** Arrows for what the camera does. */
function movement({ move, x }) {
  const arrow = (fromX, fromY, toX, toY) => {
    const turn = (Math.atan2(toY - fromY, toX - fromX) * 180) / Math.PI;
    return `<path d="M${fromX} ${fromY}L${toX} ${toY}"/>
      <path transform="translate(${toX} ${toY}) rotate(${turn})" d="M-7 -5L0 0L-7 5"/>`;
  };
  const corners = [[-1, -1], [1, -1], [-1, 1], [1, 1]];
  const diagonal = (near, far) =>
    corners.map(([a, b]) =>
      arrow(MIDDLE + a * 142 * near, 90 + b * 78 * near, MIDDLE + a * 142 * far, 90 + b * 78 * far),
    );
  const brackets = corners.map(
    ([a, b]) => `<path d="M${MIDDLE + a * 148} ${90 + b * 58}V${90 + b * 78}H${MIDDLE + a * 120}"/>`,
  );
  const drawn = {
    in: diagonal(1, 0.74).join(""),
    out: diagonal(0.74, 1).join(""),
    left: arrow(212, 164, 108, 164),
    right: arrow(108, 164, 212, 164),
    up: arrow(300, 132, 300, 48),
    down: arrow(300, 48, 300, 132),
    track: `${arrow(96, 162, 224, 162)}
      <path d="M84 171H236"/>
      <circle cx="112" cy="171" r="3.4" fill="#fff"/>
      <circle cx="196" cy="171" r="3.4" fill="#fff"/>`,
    arc: `<path d="M${x - 62} 138A62 20 0 0 0 ${x + 62} 138"/>
      <path transform="translate(${x + 62} 138) rotate(-82)" d="M-7 -5L0 0L-7 5"/>`,
    hand: `<g stroke-dasharray="10 5">
      <rect x="10" y="9" width="296" height="160" transform="rotate(1.5 160 90)"/>
      <rect x="14" y="11" width="296" height="160" transform="rotate(-1.2 160 90)" opacity=".6"/></g>`,
    static: brackets.join(""),
  }[MOVES[move]];
  if (!drawn) return "";
  const stroke = (colour, width) => `<g stroke="${colour}" stroke-width="${width}" fill="none"
      stroke-linecap="round" stroke-linejoin="round">${drawn}</g>`;
  return stroke("#0a0c10", 5) + stroke("#ffffff", 2.2);
}

/** A small camera with its angle of view, for a lens. */
function angleOfView({ view }) {
  if (!view) return "";
  const half = (view * Math.PI) / 360;
  const [x, y] = [20, 150];
  const tip = (sign) => `${x + 10 + Math.cos(half) * 26} ${y + sign * Math.sin(half) * 26}`;
  return `<g>
    <rect x="4" y="126" width="50" height="50" rx="6" fill="#0a0c10" opacity=".62"/>
    <path d="M${x + 6} ${y} L${tip(-1)}A26 26 0 0 1 ${tip(1)}Z" fill="#f0883e" opacity=".75"/>
    <rect x="${x - 10}" y="${y - 6}" width="14" height="12" rx="2" fill="#d7dae0"/>
    <path d="M${x + 4} ${y - 3}L${x + 9} ${y - 6}V${y + 6}L${x + 4} ${y + 3}Z" fill="#d7dae0"/></g>`;
}
