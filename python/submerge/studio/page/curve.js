"use strict";
// The shares of all blocks as one picture to draw in: a bar for each, as high as its share.
const Curve = (() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const WIDTH = 720, HEIGHT = 180, FOOT = 18;
  const shape = (name, attributes, text) => {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };

  // `moving(shares)` is called while a share moves, `moved(shares)` when it stays.
  return (place, { moving, moved }) => {
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + FOOT}`, tabindex: 0, role: "slider",
      "aria-valuemin": 0, "aria-valuemax": 1, "aria-orientation": "vertical" });
    const said = document.createElement("p");
    place.replaceChildren(svg, said);
    let sliders = [], chosen = 0, drawn = null, last = null, pressed = null;

    const width = () => WIDTH / Math.max(1, sliders.length);
    const tell = () => {
      const slider = sliders[chosen];
      if (!slider) return;
      const words = `${slider.group}: ${slider.share.toFixed(2)}${slider.even ? "" : " on average"}`;
      said.textContent = words;
      svg.setAttribute("aria-valuenow", slider.share.toFixed(2));
      svg.setAttribute("aria-valuetext", words);
      svg.setAttribute("aria-label", `share of the second model in ${slider.group}`);
    };
    const draw = () => {
      const parts = [shape("rect", { class: "ground", x: 0, y: 0, width: WIDTH, height: HEIGHT })];
      for (const at of [0.25, 0.5, 0.75])
        parts.push(shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT * at, y2: HEIGHT * at }));
      let stack = null;
      sliders.forEach((slider, at) => {
        const word = slider.group.split("[")[0];
        if (word !== stack) {
          const x = at * width();
          if (at) parts.push(shape("line", { class: "rule", x1: x, x2: x, y1: 0, y2: HEIGHT }));
          if (slider.group.includes("[")) parts.push(shape("text", { x: x + 2, y: HEIGHT + 13 }, word));
          stack = word;
        }
        const high = Math.max(2, HEIGHT * Math.min(1, Math.max(0, slider.share)));
        parts.push(shape("rect", { class: slider.even ? "bar-b" : "bar-b uneven", x: at * width() + 1,
          y: HEIGHT - high, width: Math.max(1, width() - 2), height: high }));
      });
      if (sliders.length)
        parts.push(shape("rect", { class: "chosen", x: chosen * width() + 1, y: 1,
          width: Math.max(1, width() - 2), height: HEIGHT - 2 }));
      svg.replaceChildren(...parts);
      tell();
    };
    const set = (at, share) => {
      const rounded = Math.round(Math.min(1, Math.max(0, share)) * 100) / 100;
      sliders[at] = { ...sliders[at], share: rounded, even: true };
      drawn = { ...drawn, [sliders[at].group]: rounded };
    };
    const spot = (event) => {
      const box = svg.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * sliders.length);
      const share = 1 - ((event.clientY - box.top) / box.height) * ((HEIGHT + FOOT) / HEIGHT);
      return { at: Math.min(sliders.length - 1, Math.max(0, at)), share };
    };
    // A quick stroke skips blocks: those between take what lies on the line.
    const stroke = (event) => {
      const now = spot(event), from = last ?? now, step = now.at < from.at ? -1 : 1;
      for (let at = from.at; ; at += step) {
        const part = now.at === from.at ? 1 : (at - from.at) / (now.at - from.at);
        set(at, from.share + (now.share - from.share) * part);
        if (at === now.at) break;
      }
      last = now; chosen = now.at;
      draw(); moving(drawn);
    };
    const finish = () => {
      if (!drawn) return;
      const shares = drawn;
      drawn = null; last = null;
      moved(shares);
    };
    svg.addEventListener("pointerdown", (event) => {
      if (!sliders.length || event.button) return;
      pressed = event.pointerId;
      svg.setPointerCapture(event.pointerId); svg.focus({ preventScroll: true });
      last = null; stroke(event); event.preventDefault();
    });
    svg.addEventListener("pointermove", (event) => { if (pressed === event.pointerId) stroke(event); });
    for (const kind of ["pointerup", "pointercancel"])
      svg.addEventListener(kind, () => { pressed = null; finish(); });
    let later = 0;
    svg.addEventListener("keydown", (event) => {
      if (!sliders.length || event.ctrlKey || event.metaKey || event.altKey) return;
      const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const up = { ArrowUp: 1, ArrowDown: -1, PageUp: 4, PageDown: -4 }[event.key];
      const end = { Home: 0, End: 1 }[event.key];
      if (across) chosen = Math.min(sliders.length - 1, Math.max(0, chosen + across));
      else if (up) set(chosen, sliders[chosen].share + up * (event.shiftKey ? 0.01 : 0.05));
      else if (end !== undefined) set(chosen, end);
      else return;
      event.preventDefault(); draw();
      if (across) return;
      moving(drawn);
      clearTimeout(later); later = setTimeout(finish, 400);
    });
    svg.addEventListener("blur", () => { clearTimeout(later); if (pressed === null) finish(); });
    return {
      busy: () => drawn !== null,
      show: (found) => {
        if (drawn) return;
        sliders = found.map((slider) => ({ ...slider }));
        chosen = Math.min(chosen, Math.max(0, sliders.length - 1));
        draw();
      },
    };
  };
})();
