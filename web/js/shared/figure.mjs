/** The person in the picture of a look: standing, or from straight above. */

const BOTTOM = 180; // of the frame
const BIG_HEADS = { "3D cartoon style": 1.55, "2D anime style": 1.35, "puppet animation": 1.25 };
const FLAT_OUTLINE = ["2D anime style", "black and white animation"];

/** The figure from the side of the eyes, with the shade that the light's direction gives it. */
export function figure(look) {
  const { id, x, top, height, direction, intensity, dark, style } = look;
  const scale = height / 100;
  const place = `translate(${x} ${top}) scale(${scale})`;
  const body = `<g transform="${place}">${person(look)}</g>`;
  const rim = `<g filter="url(#${id}rim)">${body}</g>`;
  const dim = (opacity, mask = "") => `<g filter="url(#${id}dark)" opacity="${opacity}"${mask}>${body}</g>`;
  const shade = `mask="url(#${id}shade)"`;
  const hard = intensity === "hard lighting";
  const parts = [shadow(look)];
  if (direction === "backlighting") {
    const reach = Math.min(height * 0.55, 150);
    const centre = Math.min(top + height * 0.22, 100);
    parts.push(`<circle cx="${x}" cy="${centre}" r="${reach}" fill="url(#${id}glow)"/>`);
  }
  if (direction === "edge lighting" || direction === "backlighting") parts.push(rim);
  parts.push(body);
  if (dark) parts.push(dim(dark * 0.9));
  if (direction === "backlighting") parts.push(dim(0.86));
  else if (direction === "edge lighting") parts.push(dim(0.62));
  else if (direction !== "none" || intensity !== "none") parts.push(dim(hard ? 0.72 : 0.5, ` ${shade}`));
  if (style === "puppet animation") parts.push(strings(look));
  return parts.join("");
}

function shadow({ id, x, top, height, intensity, direction, source: name }) {
  const feet = top + height;
  if (feet > BOTTOM + 20) return "";
  const hard = intensity === "hard lighting" || name === "sunny lighting";
  const away = direction === "side lighting" || name === "sunny lighting" || hard ? height * 0.22 : 0;
  const lean = name === "sunny lighting" ? -away : away;
  const filter = hard ? "" : ` filter="url(#${id}soft)"`;
  return `<ellipse cx="${x + lean}" cy="${feet}"
      rx="${height * 0.14 + Math.abs(lean)}" ry="${height * 0.035}" fill="#05070b"
      opacity="${hard ? 0.6 : 0.35}"${filter}/>`;
}

/** A person a hundred units tall, the middle of the head top at 0, 0. */
function person({ taper, style, composition }) {
  const big = BIG_HEADS[style] ?? 1;
  const wide = (y) => 1 + taper * (y / 100 - 0.5);
  const at = (x, y) => `${(x * wide(y)).toFixed(2)} ${y}`;
  const outline = FLAT_OUTLINE.includes(style)
    ? ' stroke="#14161b" stroke-width=".9" stroke-linejoin="round"'
    : "";
  const leg = (side) =>
    `<path
        d="M${at(side * 1, 52)}L${at(side * 10, 52)}L${at(side * 9, 97)}L${at(side * 13, 100)}
        L${at(side * 3, 100)}Z" fill="#3b4a6b"/>`;
  const arm = (side) =>
    `<path d="M${at(side * 9, 19)}Q${at(side * 16, 20)}
        ${at(side * 17, 34)}L${at(side * 16.5, 52)} L${at(side * 12.5, 52)}L${at(side * 12, 32)}Z"
        fill="#b85c38"/>
      <circle cx="${side * 14.5 * wide(53)}" cy="53.5" r="2.4" fill="#e7bd98"/>`;
  const coat = `<path d="M${at(-4, 15)}Q${at(-12, 17)}
      ${at(-12, 22)}L${at(-11, 58)}H${(11 * wide(58)).toFixed(2)} L${at(12, 22)}Q${at(12, 17)}
      ${at(4, 15)}Z" fill="#cf6f45"/><path d="M${at(0, 17)}V57" stroke="#8f4427" stroke-width=".7"/>`;
  const looks = composition === "short-side composition" ? 1.3 : 0;
  const head = `<g transform="translate(0 15) scale(${wide(8) * big})
      translate(0 -15)">${face(looks, big)}</g>`;
  return `<g${outline}>
    ${leg(-1)}${leg(1)}${arm(-1)}${arm(1)}<path d="M-2.6 12H2.6V17L0 18.4L-2.6 17Z" fill="#dca983"/>
    ${coat}${head}</g>`;
}

/** Head and face; `looks` moves the eyes to a side. */
function face(looks, big) {
  const large = big > 1.3 ? 1.5 : 1;
  const eye = (x) => `<ellipse cx="${x + looks}" cy="8" rx="1.35" ry="${0.8 * large}"
      fill="#fff" stroke="none"/>
    <circle cx="${x + looks * 1.35}" cy="8" r="${0.66 * large}" fill="#4a6b8a" stroke="none"/>
    <circle cx="${x + looks * 1.35}" cy="8" r="${0.32 * large}" fill="#0d1218" stroke="none"/>
    <circle cx="${x + 0.25 + looks * 1.35}" cy="7.75" r=".16" fill="#fff" stroke="none"/>
    <path d="M${x - 1.6 + looks} 6.4Q${x + looks} 5.6 ${x + 1.6 + looks} 6.4" stroke="#3a261c"
      stroke-width=".5" fill="none"/>`;
  return `<ellipse cy="8" rx="5.6" ry="7.2" fill="#e7bd98"/>
    <path d="M-5.8 8C-7 -1.5 7 -1.5 5.8 8C5.4 4.6 3.4 3.4 0 3.6C-3.4 3.4 -5.4 4.6 -5.8 8Z"
      fill="#3a261c"/>${eye(-2.2)}${eye(2.2)}
    <path d="M${looks} 8.4Q${0.9 + looks} 10.2 ${0.5 + looks} 10.6Q${looks} 10.9 ${-0.5 + looks} 10.6"
      stroke="#b98661" stroke-width=".35" fill="none"/>
    <path d="M${-1.5 + looks} 12.3Q${looks} 13.1 ${1.5 + looks} 12.3" stroke="#a6524a"
      stroke-width=".55" fill="none" stroke-linecap="round"/>`;
}

/** The same person from straight above, or tiny from high up. */
export function fromAbove({ id, x, height, angle, dark }) {
  const far = angle === "aerial shot";
  const scale = (far ? 0.5 : 1) * Math.min(Math.max(height / 100, 0.5), 4.5);
  const fields = `<g opacity=".5">
    <path d="M-20 40L110 -20H230L120 200H-40Z" fill="#7a9a55"/>
    <path d="M230 -20H360V110 L196 200H120Z" fill="#a3935a"/>
    <path d="M-20 150C90 130 190 60 350 30" stroke="#c9c4b8" stroke-width="9" fill="none"/></g>`;
  return `${far ? fields : ""}
    <ellipse cx="${x + 9 * scale}" cy="${96 + 9 * scale}" rx="${18 * scale}" ry="${8 * scale}"
      fill="#05070b" opacity=".45" filter="url(#${id}soft)"/>
    <g transform="translate(${x} 92) scale(${scale})">
    <ellipse rx="17" ry="8" fill="#cf6f45"/>
    <circle cx="-15" cy="-6" r="2.6" fill="#e7bd98"/>
    <circle cx="15" cy="-6" r="2.6" fill="#e7bd98"/>
    <circle cy="-1" r="7" fill="#3a261c"/>
    <path d="M-2 -7.6L0 -9.6 L2 -7.6Z" fill="#e7bd98"/></g>
    ${dark ? `<rect x="-60" y="-60" width="440" height="320"
      opacity="${dark * 0.7}"
    fill="#05070f"/>` : ""}`;
}

function strings({ x, top, height }) {
  const unit = height / 100;
  const line = (away, y) => `M${x + away * unit * 0.6} -10L${x + away * unit} ${top + y * unit}`;
  return `<path d="${line(-14.5, 52)}${line(14.5, 52)}${line(0, 0)}"
      stroke="#f4ead6" stroke-width=".9" opacity=".85" fill="none"/>`;
}
