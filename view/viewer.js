// Draws the poses of one sample side by side; they turn together by mouse or finger.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const box = document.querySelector(".viewer");
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    parent.appendChild(element);
    return element;
  };
  const start = { yaw: 0.6, pitch: 0.15, zoom: 1 };
  const view = { ...start };
  const shown = { names: data.page, doubt: false, bones: true };
  const count = data.samples.length;
  const has = (field) => data.samples.some((sample) => sample[field]);
  let current = 0;
  let hovered = -1;
  let timer = null;
  let due = 0;
  let traced = data.joints.length > 1 ? 1 : 0;
  let panels = [];

  // --- controls ---------------------------------------------------------------

  const steps = make("div", "viewer-bar", box);
  const looks = make("div", "viewer-bar", box);
  const button = (bar, text, title, action) => {
    const element = make("button", "", bar);
    element.type = "button";
    element.textContent = text;
    element.title = title;
    element.onclick = action;
    return element;
  };
  button(steps, "‹", "previous (left arrow)", () => go(current - 1));
  const counter = make("span", "viewer-count", steps);
  button(steps, "›", "next (right arrow)", () => go(current + 1));
  const play = button(steps, "play", "one after the other (space)", () => toggleTimer());
  const slider = make("input", "", steps);
  Object.assign(slider, { type: "range", min: 1, max: count, step: 1, value: 1 });
  slider.setAttribute("aria-label", "sample");
  slider.oninput = () => go(Number(slider.value) - 1);
  if (count < 2) play.hidden = slider.hidden = true;

  button(looks, "front", "as the camera sees it (F)", () => look(0, 0));
  button(looks, "side", "the camera is on the left (S)", () => look(Math.PI / 2, 0));
  button(looks, "top", "from above (T)", () => look(0, Math.PI / 2));
  button(looks, "reset", "the first view (R)", () => reset());
  const toggle = (name, text, title) => {
    const element = button(looks, text, title, () => flip(name));
    element.setAttribute("aria-pressed", shown[name]);
    return element;
  };
  const toggles = { names: toggle("names", "joint names", "show or hide (N)") };
  if (has("points")) {
    toggles.bones = toggle("bones", "skeleton on the picture", "show or hide (B)");
  }
  if (has("spread_3d")) {
    toggles.doubt = toggle(
      "doubt", "uncertainty", "one standard deviation (U)",
    );
  }
  button(looks, "↶", "turn (shift and left or right arrow)", () => rotate(-0.3, 0));
  button(looks, "↷", "turn (shift and left or right arrow)", () => rotate(0.3, 0));
  const caption = make("p", "viewer-caption", box);
  const row = make("div", "viewer-row", box);
  const trace = has("film") ? makeTrace() : null;

  function flip(name) {
    if (!toggles[name]) return;
    shown[name] = !shown[name];
    toggles[name].setAttribute("aria-pressed", shown[name]);
    draw();
  }

  function look(yaw, pitch) {
    view.yaw = yaw;
    view.pitch = pitch;
    draw();
  }

  function reset() {
    Object.assign(view, start);
    draw();
  }

  function go(index) {
    if (!count) return;
    current = (index + count) % count;
    show();
  }

  function toggleTimer() {
    if (timer) cancelAnimationFrame(timer);
    due = performance.now();
    timer = timer || count < 2 ? null : requestAnimationFrame(tick);
    play.textContent = timer ? "stop" : "play";
  }

  // Frames of a video at its rate; those that are late are left out.
  function tick(now) {
    if (now - due > 5000) due = now; // the page was hidden
    const wait = (i) => data.samples[i].wait || (data.samples[i].film ? 1000 : 120);
    let next = current;
    while (due + wait(next) <= now) {
      due += wait(next);
      next = (next + 1) % count;
    }
    if (next !== current) go(next);
    timer = requestAnimationFrame(tick);
  }

  function rotate(yaw, pitch) {
    view.yaw += yaw;
    view.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.pitch + pitch));
    draw();
  }

  const keys = {
    ArrowLeft: () => go(current - 1),
    ArrowRight: () => go(current + 1),
    PageUp: () => go(Math.max(current - 10, 0)),
    PageDown: () => go(Math.min(current + 10, count - 1)),
    Home: () => go(0),
    End: () => go(count - 1),
    " ": toggleTimer,
    "shift ArrowLeft": () => rotate(-0.15, 0),
    "shift ArrowRight": () => rotate(0.15, 0),
    ArrowUp: () => rotate(0, 0.15),
    ArrowDown: () => rotate(0, -0.15),
    "+": () => zoom(1.15),
    "-": () => zoom(1 / 1.15),
    f: () => look(0, 0),
    s: () => look(Math.PI / 2, 0),
    t: () => look(0, Math.PI / 2),
    r: reset,
    n: () => flip("names"),
    b: () => flip("bones"),
    u: () => flip("doubt"),
  };
  (data.page ? document : box).addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return;
    if (event.target.tagName === "SELECT") return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const shift = event.shiftKey && name.startsWith("Arrow") ? "shift " : "";
    const action = keys[shift + name] || keys[name];
    if (!action) return;
    event.preventDefault(); // the slider would step as well
    action();
  });

  // --- one sample -------------------------------------------------------------

  function show() {
    const sample = data.samples[current];
    counter.textContent = `${current + 1} / ${count}`;
    slider.value = current + 1;
    caption.textContent = sample.caption;
    const names = [sample.image ? "picture" : "", ...Object.keys(sample.poses)];
    if (panels.names !== names.join("|")) build(sample, names.join("|"));
    panels.forEach((panel) => {
      if (panel.name) panel.pose = sample.poses[panel.name];
      else load(panel, sample);
    });
    draw();
  }

  function build(sample, names) {
    row.replaceChildren();
    panels = Object.keys(sample.poses).map((name) => figure(name));
    if (sample.image) panels.unshift(figure(""));
    panels.names = names;
    panels.forEach((panel) => row.appendChild(panel.element));
  }

  function figure(name) {
    const element = document.createElement("figure");
    const canvas = make("canvas", name ? "turns" : "", element);
    const title = name
      ? data.labels[name] || name : data.labels.picture || "picture and landmarks";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", title);
    make("figcaption", "", element).textContent = title;
    const panel = { name, element, canvas, flat: [] };
    listen(panel);
    return panel;
  }

  function load(panel, sample) {
    panel.picture = null;
    const picture = new Image();
    picture.onload = () => {
      if (data.samples[current] !== sample) return;
      panel.picture = picture;
      panel.canvas.dataset.sample = current;
      drawPicture(panel, palette());
    };
    picture.src = sample.image;
  }

  // --- one joint over time ----------------------------------------------------

  function makeTrace() {
    const figure = make("figure", "viewer-trace", box);
    const choice = make("select", "", make("figcaption", "", figure));
    choice.setAttribute("aria-label", "joint of the trace");
    data.joints.forEach((name, i) => {
      const option = make("option", "", choice);
      option.textContent = name;
      option.value = i;
      option.selected = i === traced;
    });
    choice.onchange = () => {
      traced = Number(choice.value);
      draw();
    };
    const keyOf = (name, text) => {
      const key = make("span", "", choice.parentNode);
      key.innerHTML = `<span class="key" style="background:var(--${name})"></span>${text}`;
    };
    keyOf("right", "x right");
    keyOf("centre", "y down");
    keyOf("left", "z away, about the middle of the body, in bone lengths");
    const canvas = make("canvas", "", figure);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "a joint over time");
    const seek = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const area = canvas.getBoundingClientRect();
      const [first, last] = range();
      const part = (event.clientX - area.left) / area.width;
      go(first + Math.max(0, Math.min(last - first, Math.round(part * (last - first)))));
    };
    canvas.onpointerdown = canvas.onpointermove = seek;
    return canvas;
  }

  // The samples of the film that is shown.
  function range() {
    const film = data.samples[current].film;
    let [first, last] = [current, current];
    while (first > 0 && data.samples[first - 1].film === film) first -= 1;
    while (last < count - 1 && data.samples[last + 1].film === film) last += 1;
    return [first, last];
  }

  function drawTrace(colours) {
    trace.parentNode.hidden = !data.samples[current].film;
    if (trace.parentNode.hidden) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [trace.clientWidth, trace.clientHeight];
    [trace.width, trace.height] = [width * ratio, height * ratio].map(Math.round);
    const pen = trace.getContext("2d");
    pen.scale(ratio, ratio);
    const [first, last] = range();
    const points = data.samples.slice(first, last + 1)
      .map((sample) => Object.values(sample.poses)[0][traced]);
    const reach = Math.max(0.1, ...points.flatMap((p) => (p || []).map(Math.abs)));
    const x = (i) => (i / Math.max(last - first, 1)) * width;
    const y = (value) => height / 2 + (value / reach) * (height / 2 - 5);
    stroke(pen, [[0, y(0)], [width, y(0)]], colours.line, 1);
    ["right", "centre", "left"].forEach((name, axis) => {
      pen.strokeStyle = colours[name];
      pen.lineWidth = 1.8;
      pen.beginPath();
      points.forEach((p, i) => {
        if (p) pen[i && points[i - 1] ? "lineTo" : "moveTo"](x(i), y(p[axis]));
      });
      pen.stroke();
    });
    const now = x(current - first);
    stroke(pen, [[now, 0], [now, height]], colours.text, 1.2);
  }

  // --- mouse and touch --------------------------------------------------------

  function listen(panel) {
    const { canvas } = panel;
    const fingers = new Map();
    const gap = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    canvas.onpointerleave = () => hover(-1);
    canvas.onpointermove = (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) {
        hover(nearest(panel, event));
        return;
      }
      const before = fingers.size === 2 ? gap() : 0;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) zoom(gap() / (before || 1));
      else if (fingers.size === 1) {
        rotate((event.clientX - last[0]) * 0.01, (event.clientY - last[1]) * 0.01);
      }
    };
    if (!panel.name) return;
    canvas.onpointerdown = (event) => {
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => {
      fingers.delete(event.pointerId);
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.001));
    }, { passive: false });
    canvas.ondblclick = reset;
  }

  function zoom(factor) {
    view.zoom = Math.max(0.4, Math.min(5, view.zoom * factor));
    draw();
  }

  function hover(joint) {
    if (joint === hovered) return;
    hovered = joint;
    draw();
  }

  function nearest(panel, event) {
    const area = panel.canvas.getBoundingClientRect();
    let [best, joint] = [14, -1];
    panel.flat.forEach((point, i) => {
      if (!point) return;
      const [x, y] = [event.clientX - area.left, event.clientY - area.top];
      const distance = Math.hypot(point[0] - x, point[1] - y);
      if (distance < best) [best, joint] = [distance, i];
    });
    return joint;
  }

  // --- drawing ----------------------------------------------------------------

  // x right, y down, z away: a yaw about the vertical, then a pitch about x.
  function turn([x, y, z]) {
    const [cy, sy] = [Math.cos(view.yaw), Math.sin(view.yaw)];
    const [cp, sp] = [Math.cos(view.pitch), Math.sin(view.pitch)];
    const u = cy * x + sy * z;
    const depth = -sy * x + cy * z;
    return [u, cp * y - sp * depth, sp * y + cp * depth];
  }

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const names = ["left", "right", "centre", "line", "text", "soft", "card"];
    return Object.fromEntries(
      names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
    );
  }

  function draw() {
    const colours = palette();
    panels.forEach((panel) => {
      if (panel.name) drawPose(panel, colours);
      else drawPicture(panel, colours);
    });
    if (trace) drawTrace(colours);
  }

  function clear({ canvas }) {
    const ratio = window.devicePixelRatio || 1;
    const size = canvas.clientWidth;
    canvas.width = canvas.height = Math.round(size * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    return { pen, size };
  }

  function drawPicture(panel, colours) {
    const { pen, size } = clear(panel);
    const sample = data.samples[current];
    const { picture } = panel;
    if (!picture) return;
    const scale = size / Math.max(picture.width, picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    const [left, top] = [(size - w) / 2, (size - h) / 2];
    pen.drawImage(picture, left, top, w, h);
    panel.flat = (sample.points || []).map(
      (point) => point && [left + point[0] * w, top + point[1] * h, 0],
    );
    if (shown.doubt && sample.spread_2d) {
      drawDoubt(pen, panel.flat, colours, sample.spread_2d.map(
        (spread) => spread && [spread[0] * w, spread[1] * h],
      ));
    }
    if (shown.bones) drawBones(pen, panel.flat, colours, Math.max(2, size / 130));
    if (hovered >= 0) drawNames(pen, panel.flat, colours, size, [hovered]);
  }

  function drawPose(panel, colours) {
    const { pen, size } = clear(panel);
    const { pose } = panel;
    const sample = data.samples[current];
    const unit = (size / 2 / sample.reach) * 0.92 * view.zoom;
    const project = (point) => {
      const [u, v, depth] = turn(point);
      return [size / 2 + u * unit, size / 2 + v * unit, depth];
    };
    const known = pose.filter(Boolean);
    if (!known.length) return;
    const floor = Math.max(...known.map((point) => point[1])) + 0.05;
    drawFloor(pen, project, floor, colours.line);
    if (data.page) drawAxes(pen, size, colours.soft);
    panel.flat = pose.map((point) => point && project(point));
    if (shown.doubt && sample.spread_3d) {
      drawDoubt(pen, panel.flat, colours, sample.spread_3d.map((spread) => spread && [
        Math.hypot(...[0, 1, 2].map((i) => turn(unitVector(i))[0] * spread[i])) * unit,
        Math.hypot(...[0, 1, 2].map((i) => turn(unitVector(i))[1] * spread[i])) * unit,
      ]));
    }
    drawBones(pen, panel.flat, colours, Math.max(2, size / 90));
    const all = [...panel.flat.keys()];
    const named = shown.names ? all : all.filter((i) => i === hovered);
    drawNames(pen, panel.flat, colours, size, named);
  }

  const unitVector = (i) => [0, 1, 2].map((j) => (i === j ? 1 : 0));

  function drawBones(pen, flat, colours, width) {
    const parts = data.edges
      .map(([a, b], i) => ({ ends: [flat[a], flat[b]], side: data.bone_sides[i] }))
      .filter(({ ends }) => ends[0] && ends[1])
      .map((part) => ({ ...part, depth: (part.ends[0][2] + part.ends[1][2]) / 2 }));
    flat.forEach((point, i) => {
      if (!point) return;
      // A joint lies over the bones that end in it.
      const own = parts.filter(({ ends }) => ends && ends.includes(point));
      const depth = Math.min(point[2], ...own.map((part) => part.depth)) - 1e-3;
      parts.push({ joint: i, side: data.joint_sides[i], depth });
    });
    pen.lineCap = "round";
    parts.sort((p, q) => q.depth - p.depth).forEach(({ ends, joint, side }) => {
      if (ends) {
        stroke(pen, ends, colours.card, width * 1.7);
        stroke(pen, ends, colours[side], width);
        return;
      }
      pen.beginPath();
      pen.arc(flat[joint][0], flat[joint][1], width * (joint === hovered ? 1.7 : 0.95), 0, 7);
      pen.fillStyle = colours[side];
      pen.fill();
      pen.strokeStyle = colours.card;
      pen.lineWidth = 1;
      pen.stroke();
    });
  }

  function stroke(pen, [a, b], colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0], b[1]);
    pen.stroke();
  }

  function drawDoubt(pen, flat, colours, radii) {
    pen.globalAlpha = 0.22;
    flat.forEach((point, i) => {
      if (!point || !radii[i]) return;
      pen.fillStyle = colours[data.joint_sides[i]];
      pen.beginPath();
      pen.ellipse(point[0], point[1], radii[i][0], radii[i][1], 0, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
  }

  // Each name where it covers no other; with a thin line where that is farther off.
  function drawNames(pen, flat, colours, size, joints) {
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const taken = flat.filter(Boolean).map(([x, y]) => [x - 3, y - 3, x + 3, y + 3]);
    const order = joints.filter((i) => flat[i]).sort((i, j) => flat[i][2] - flat[j][2]);
    order.forEach((i) => {
      const [x, y] = flat[i];
      const text = data.joints[i];
      const width = pen.measureText(text).width;
      const area = place(x, y, width, size, taken);
      if (!area && i !== hovered) return;
      const [left, top, right, bottom] = area || [x + 8, y - 8, x + 8 + width, y + 8];
      taken.push([left, top, right, bottom]);
      const middle = (top + bottom) / 2;
      const reach = [Math.max(left, Math.min(right, x)), Math.max(top, Math.min(bottom, y))];
      if (Math.hypot(reach[0] - x, reach[1] - y) > 14) {
        stroke(pen, [[x, y], reach], colours.soft, 0.8);
      }
      pen.lineJoin = "round";
      pen.strokeStyle = colours.card;
      pen.lineWidth = 4;
      pen.strokeText(text, left, middle);
      pen.fillStyle = colours.text;
      pen.fillText(text, left, middle);
    });
  }

  function place(x, y, width, size, taken) {
    const outwards = x < size / 2 ? [-1, 1] : [1, -1];
    for (const far of [9, 20, 34, 50]) {
      for (const [sx, sy] of [...outwards.map((s) => [s, 0]),
        ...outwards.map((s) => [s, -1]), ...outwards.map((s) => [s, 1]), [0, -1], [0, 1]]) {
        const left = sx > 0 ? x + far : sx < 0 ? x - far - width : x - width / 2;
        const middle = y + sy * (far + 2);
        const area = [left, middle - 7, left + width, middle + 7];
        const inside = area[0] > 2 && area[1] > 2 && area[2] < size - 2 && area[3] < size - 2;
        if (inside && !taken.some((other) => overlap(area, other))) return area;
      }
    }
    return null;
  }

  const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

  function drawFloor(pen, project, height, colour) {
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let i = -2; i <= 2; i += 1) {
      [[[i, height, -2], [i, height, 2]], [[-2, height, i], [2, height, i]]]
        .forEach(([from, to]) => {
          pen.moveTo(...project(from).slice(0, 2));
          pen.lineTo(...project(to).slice(0, 2));
        });
    }
    pen.stroke();
  }

  function drawAxes(pen, size, colour) {
    const [x, y, length] = [46, size - 46, 26];
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    ["x", "y", "z away"].forEach((name, i) => {
      const [u, v] = turn(unitVector(i));
      stroke(pen, [[x, y], [x + u * length, y + v * length]], colour, 1.2);
      if (Math.hypot(u, v) < 0.15) return; // it points at the viewer
      pen.fillStyle = colour;
      pen.fillText(name, x + u * (length + 12), y + v * (length + 10));
    });
    pen.textAlign = "left";
  }

  box.tabIndex = 0;
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (count) show();
})();
