// Draws the poses of one sample side by side; they turn together with the mouse.
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
  let current = 0;
  let panels = [];

  const bar = make("div", "viewer-bar", box);
  const button = (text, title, action) => {
    const element = make("button", "", bar);
    element.type = "button";
    element.textContent = text;
    element.title = title;
    element.onclick = action;
  };
  button("‹", "previous sample (left arrow)", () => go(-1));
  const counter = make("span", "viewer-count", bar);
  button("›", "next sample (right arrow)", () => go(1));
  button("front", "as the camera sees it", () => look(0, 0));
  button("side", "the camera is on the left", () => look(Math.PI / 2, 0));
  button("top", "from above", () => look(0, Math.PI / 2));
  button("reset", "the first view", () => { view.zoom = 1; look(start.yaw, start.pitch); });
  const caption = make("span", "viewer-caption", bar);
  const row = make("div", "viewer-row", box);

  function look(yaw, pitch) {
    view.yaw = yaw;
    view.pitch = pitch;
    draw();
  }

  function go(change) {
    current = (current + change + data.samples.length) % data.samples.length;
    show();
  }

  function show() {
    const sample = data.samples[current];
    row.replaceChildren();
    counter.textContent = `${current + 1} / ${data.samples.length}`;
    caption.textContent = sample.caption;
    if (sample.image) {
      const figure = make("figure", "", row);
      const picture = make("img", "", figure);
      picture.src = sample.image;
      picture.alt = sample.caption;
      make("figcaption", "", figure).textContent = "picture and landmarks";
    }
    panels = Object.entries(sample.poses).map(([name, pose]) => {
      const figure = make("figure", "", row);
      const canvas = make("canvas", "", figure);
      make("figcaption", "", figure).textContent = data.labels[name] || name;
      listen(canvas);
      return { canvas, pose };
    });
    draw();
  }

  function listen(canvas) {
    let last = null;
    canvas.onpointerdown = (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = (event) => {
      if (!last) {
        name(canvas, event);
        return;
      }
      view.yaw += (event.clientX - last[0]) * 0.01;
      view.pitch += (event.clientY - last[1]) * 0.01;
      view.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.pitch));
      last = [event.clientX, event.clientY];
      draw();
    };
    canvas.onpointerup = canvas.onpointercancel = () => { last = null; };
    canvas.onwheel = (event) => {
      event.preventDefault();
      view.zoom *= Math.exp(-event.deltaY * 0.001);
      view.zoom = Math.max(0.4, Math.min(5, view.zoom));
      draw();
    };
    canvas.ondblclick = () => { Object.assign(view, start); draw(); };
  }

  function name(canvas, event) {
    const panel = panels.find((p) => p.canvas === canvas);
    const area = canvas.getBoundingClientRect();
    let best = 12;
    let text = "";
    (panel.flat || []).forEach((point, i) => {
      if (!point) return;
      const dx = point[0] - (event.clientX - area.left);
      const dy = point[1] - (event.clientY - area.top);
      const distance = Math.hypot(dx, dy);
      if (distance < best) { best = distance; text = data.joints[i]; }
    });
    canvas.title = text;
  }

  // x right, y down, z away: a yaw about the vertical, then a pitch about x.
  function turn([x, y, z]) {
    const [cy, sy] = [Math.cos(view.yaw), Math.sin(view.yaw)];
    const [cp, sp] = [Math.cos(view.pitch), Math.sin(view.pitch)];
    const u = cy * x + sy * z;
    const depth = -sy * x + cy * z;
    return [u, cp * y - sp * depth, sp * y + cp * depth];
  }

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function draw() {
    const colours = {
      left: colour("left"), right: colour("right"), centre: colour("centre"),
      grid: colour("line"),
    };
    panels.forEach((panel) => drawPanel(panel, colours));
  }

  function drawPanel(panel, colours) {
    const { canvas, pose } = panel;
    const ratio = window.devicePixelRatio || 1;
    const size = canvas.clientWidth;
    canvas.width = canvas.height = Math.round(size * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const unit = (size / 2 / data.samples[current].reach) * view.zoom;
    const project = (point) => {
      const [u, v, depth] = turn(point);
      return [size / 2 + u * unit, size / 2 + v * unit, depth];
    };
    const floor = Math.max(...pose.filter(Boolean).map((p) => p[1])) + 0.05;
    drawFloor(pen, project, floor, colours.grid);
    const flat = pose.map((point) => point && project(point));
    panel.flat = flat;
    data.edges
      .map(([a, b], i) => ({ a: flat[a], b: flat[b], side: data.bone_sides[i] }))
      .filter(({ a, b }) => a && b)
      .sort((p, q) => q.a[2] + q.b[2] - p.a[2] - p.b[2])
      .forEach(({ a, b, side }) => {
        pen.strokeStyle = colours[side];
        pen.lineWidth = Math.max(2, size / 60);
        pen.lineCap = "round";
        pen.beginPath();
        pen.moveTo(a[0], a[1]);
        pen.lineTo(b[0], b[1]);
        pen.stroke();
      });
  }

  function drawFloor(pen, project, height, stroke) {
    pen.strokeStyle = stroke;
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

  box.tabIndex = 0;
  box.onkeydown = (event) => {
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  };
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  show();
})();
