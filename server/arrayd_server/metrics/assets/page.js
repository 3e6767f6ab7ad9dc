// The picture of a daemon: asked for every 5 seconds, drawn as SVG and tables.
// All that comes from the daemon becomes text nodes and numbers, never markup.
"use strict";

const EVERY = 5000; // milliseconds between two questions
const PATIENCE = 10000; // milliseconds until a question counts as not answered
const HOUR = 3600; // seconds that the charts show

const STATES = [
  ["held", "c0", "in use by a process"],
  ["pinned", "c2", "kept on request"],
  ["idle", "c1", "goes when room is needed"],
  ["stray", "c3", "mapped outside any session"],
  ["loading", "c4", "being made"],
  ["leaving", "c5", "on its way back to the kernel"],
  ["recycled", "c6", "kept for the next load"],
];
const COLOUR = Object.fromEntries(STATES.map(([state, colour]) => [state, colour]));

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

// Return a stacked area chart; `lines` are [name, class, values], the lowest first.
function chart(title, width, height, times, lines, top) {
  const left = 62, right = width - 8, upper = 8, lower = height - 20;
  const end = times[times.length - 1];
  const x = (time) => right - ((end - time) / HOUR) * (right - left);
  const y = (value) => lower - (value / top) * (lower - upper);
  const drawn = svg("svg", { class: "chart", role: "img", "aria-label": title,
    viewBox: `0 0 ${width} ${height}` });
  for (const part of [0, 0.5, 1]) {
    const at = y(part * top);
    drawn.append(svg("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }),
      svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, bytes(part * top)));
  }
  for (const [back, words] of [[60, "1 hour ago"], [30, "30 min"], [0, "now"]]) {
    const anchor = back === 60 ? "start" : back ? "middle" : "end";
    drawn.append(svg("text", { x: x(end - back * 60), y: height - 4, "text-anchor": anchor }, words));
  }
  const first = times.findIndex((time) => time >= end - HOUR);
  // A daemon that has just started has one moment to show: it gets the width of a sample.
  const places = times.slice(first).map((time, i, all) => x(all.length === 1 ? time - 15 : time));
  if (places.length === 1) places.push(x(end));
  let below = places.map(() => 0);
  for (const [name, colour, values] of lines) {
    const shown = values.slice(first);
    if (shown.length === 1) shown.push(shown[0]);
    const above = below.map((value, i) => value + shown[i]);
    const point = (value, i) => `${places[i].toFixed(1)},${y(value).toFixed(1)}`;
    const points = [...above.map(point), ...below.map(point).reverse()];
    drawn.append(svg("polygon", { class: colour, points: points.join(" ") },
      svg("title", {}, name)));
    below = above;
  }
  return drawn;
}

function legend(entries) {
  const items = entries.map(([name, colour, value, what]) => element("li", {},
    element("span", { class: `swatch ${colour}` }), element("span", {}, name),
    element("span", { class: "what" }, what), element("span", { class: "value" }, value)));
  return element("ul", { class: "legend" }, ...items);
}

function latest(values) {
  return values[values.length - 1];
}

function put(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

function size(id) {
  const width = Math.max(240, document.getElementById(id).clientWidth);
  return [width, width < 600 ? 170 : 220];
}

function drawStates(data) {
  const { at, budget, states } = data.history;
  const used = at.map((_, i) => STATES.reduce((sum, [state]) => sum + states[state][i], 0));
  const free = budget.map((value, i) => Math.max(0, value - used[i]));
  const lines = STATES.map(([state, colour]) => [state, colour, states[state]]);
  lines.push(["free of the budget", "free", free]);
  const top = Math.max(1, ...budget, ...used);
  const entries = STATES.map(([state, colour, what]) => [state, colour,
    `${bytes(data.memory[state])} in ${counted(data.numbers[state], "block")}`, what]);
  entries.push(["free", "free", bytes(latest(free)), `of the budget of ${bytes(data.budget)}`]);
  put("states", chart("Memory by state over the last hour", ...size("states"), at, lines, top),
    legend(entries));
}

function drawUsers(data) {
  const { at, users } = data.history;
  const names = Object.keys(users);
  const section = document.getElementById("users-section");
  section.hidden = names.length < 2;
  if (section.hidden) return;
  const lines = names.map((name, i) => [name === "others" ? "other users" : `user ${name}`,
    name === "others" ? "free" : `c${i % 7}`, users[name]]);
  const sums = at.map((_, i) => lines.reduce((sum, [, , values]) => sum + values[i], 0));
  const entries = lines.map(([name, colour, values]) => [name, colour, bytes(latest(values)), ""]);
  put("users", chart("Memory by user over the last hour", ...size("users"), at, lines,
    Math.max(1, ...sums)), legend(entries));
}

// Return a table; `columns` are [title, class, what of a row to show]; classes: number, wide.
// On a narrow screen what is wide goes, and `second` says it in a line of its own.
function table(columns, second, rows, more, none, what) {
  if (!rows.length) return [element("p", { class: "note" }, none)];
  const head = element("tr", {}, ...columns.map(([title, kind]) =>
    element("th", { class: kind, scope: "col" }, title)));
  const body = rows.flatMap((row) => [
    element("tr", {}, ...columns.map(([, kind, show]) => element("td", { class: kind }, show(row)))),
    element("tr", { class: "second" }, element("td", { colspan: columns.length }, second(row))),
  ]);
  const made = element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, head), element("tbody", {}, ...body)));
  return more ? [made, element("p", { class: "note" }, `and ${more} more ${what}`)] : [made];
}

function contents(block) {
  if (block.shape === null) return counted(block.arrays, "small array");
  const shape = block.shape.length ? block.shape.join(" × ") : "one value";
  return `${shape} ${block.dtype}`;
}

function stateOf(block) {
  const words = block.pinned && block.state === "held" ? "held, pinned" : block.state;
  return element("span", {}, element("span", { class: `swatch ${COLOUR[block.state]}` }), words);
}

function drawBlocks(data) {
  const columns = [
    ["Block", "number", (one) => String(one.number)],
    ["Size", "number", (one) => bytes(one.size)],
    ["State", "state", stateOf],
    ["Holders", "number", (one) => String(one.holders)],
    ["Idle", "number", (one) => duration(one.idle)],
    ["Array", "wide", contents],
    ["Format", "wide", (one) => one.format],
    ["User", "wide", (one) => `user ${one.user}`],
  ];
  const second = (one) => [contents(one), one.format, `user ${one.user}`].filter(Boolean).join(" · ");
  put("blocks", ...table(columns, second, data.blocks, data.blocks_more, "There are no blocks.",
    "that are smaller"));
}

function progress(load) {
  if (!load.total) return "";
  const done = Math.round((100 * load.done) / load.total);
  return element("progress", { max: 100, value: done, "aria-label": `${done} %` });
}

function drawLoads(data) {
  const columns = [
    ["Block", "number", (one) => (one.block === null ? "–" : String(one.block))],
    ["Size", "number", (one) => (one.size ? bytes(one.size) : "?")],
    ["Stage", "wide", (one) => one.stage],
    ["Progress", "", progress],
    ["Left", "number", (one) => duration(one.left)],
    ["Since", "number wide", (one) => duration(one.age)],
    ["Waiting", "number wide", (one) => String(one.waiters)],
  ];
  const second = (one) => `${one.stage} for ${duration(one.age)}, ${one.waiters} waiting`;
  put("loads", ...table(columns, second, data.loads, data.loads_more, "Nothing is being loaded.",
    "loads"));
}

function drawStreams(data) {
  const columns = [
    ["Stream", "number", (one) => String(one.number)],
    ["State", "wide", (one) => one.state],
    ["Epoch", "number", (one) => String(one.epoch)],
    ["Row", "number wide", (one) => `${one.row} of ${one.rows}`],
    ["Readers", "number", (one) => String(one.consumers)],
    ["Waiting", "number", (one) => String(one.waiting)],
    ["Ring", "number wide", (one) => counted(one.slots, "row")],
    ["Read", "number wide", (one) => bytes(one.bytes_read)],
  ];
  const second = (one) => `${one.state} · row ${one.row} of ${one.rows} · ring of `
    + `${counted(one.slots, "row")} · ${bytes(one.bytes_read)} read`;
  put("streams", ...table(columns, second, data.streams, data.streams_more, "No stream is open.",
    "streams"));
}

let shown = null;

function draw() {
  if (shown === null) return;
  document.getElementById("main").hidden = false;
  put("about", `${shown.version} · up ${duration(shown.uptime)} · `
    + `${bytes(shown.charged)} of ${bytes(shown.budget)} used · `
    + `${counted(shown.sessions, "client")} · `
    + `/dev/shm: ${bytes(shown.shm.free)} of ${bytes(shown.shm.size)} free`);
  for (const part of [drawStates, drawUsers, drawLoads, drawStreams, drawBlocks]) part(shown);
}

function complain(why) {
  const trouble = document.getElementById("trouble");
  trouble.hidden = !why;
  document.getElementById("main").classList.toggle("old", Boolean(why));
  if (!why) return;
  const old = shown === null ? "" : ` What is below is of ${new Date(shown.at * 1000).toLocaleTimeString()}.`;
  trouble.textContent = `The daemon does not answer (${why}). It is asked again every 5 seconds.${old}`;
}

async function update() {
  try {
    const answer = await fetch("api/status", { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    shown = await answer.json();
    draw();
    complain("");
  } catch (error) {
    complain(error.name === "TimeoutError" ? "no answer in 10 s" : error.message);
  }
  setTimeout(update, EVERY);
}

window.addEventListener("resize", draw);
update();
