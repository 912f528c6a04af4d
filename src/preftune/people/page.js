// A pair before the eyes, the next one ready, and votes that are sent until they are acknowledged.
// HTML comes rendered from the server, which lets none of a text act; everything else is set as text.

import { difference } from "./difference.js";

const $ = (selector) => document.querySelector(selector);
const token = location.hash.slice(1);
const BOX = `votes ${token.slice(0, 8)}`; // what is not acknowledged yet outlives the page
const state = { by: "", pairs: [], since: 0, filling: false, sending: false, wait: 1, votes: 0, skips: 0, plain: null, done: false, sent: 0 };
let box = JSON.parse(localStorage.getItem(BOX) || "[]");

class Refused extends Error {} // the same again would be refused again
class Shut extends Error {} // nobody is let in by this link

async function post(path, body) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.ok) return answer.json();
  const why = await answer.json().then((said) => said.error, () => "");
  if (answer.status >= 500 || answer.status === 429) throw new Error(why);
  if ([401, 403, 421].includes(answer.status)) throw new Shut(why);
  throw new Refused(why || `refused (${answer.status})`);
}

// --- what waits to be acknowledged -----------------------------------------------------------------------------------

function keep() {
  localStorage.setItem(BOX, JSON.stringify(box));
  count();
}

function put(path, body) {
  box.push({ path, body: { ...body, by: state.by, id: fresh() } });
  keep();
  send();
}

function fresh() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function send() {
  if (state.sending) return;
  state.sending = true;
  while (box.length) {
    const [{ path, body }] = box;
    let undone = null;
    try {
      const answer = await post(path, body);
      Object.assign(state, { votes: answer.votes, skips: answer.skips, sent: state.sent + 1 });
      undone = path === "api/undo" && answer.pairs;
      online();
    } catch (problem) {
      if (!(problem instanceof Refused)) {
        await pause(problem);
        continue;
      }
      tell(`This was refused: ${problem.message}`);
    }
    box.shift();
    keep();
    if (path === "api/undo") back(undone);
  }
  state.sending = false;
  fill();
}

async function pause(problem) {
  const why = problem instanceof Shut ? `Not let in: ${problem.message}.` : "No connection.";
  tell(`${why} ${box.length ? `${box.length} of yours wait here and will be sent. ` : ""}Trying again.`);
  await new Promise((resolve) => setTimeout(resolve, 1000 * state.wait));
  state.wait = Math.min(2 * state.wait, 15);
}

function online() {
  state.wait = 1;
  if (/^No/.test($("#banner").textContent)) tell("");
}

window.addEventListener("beforeunload", (event) => {
  if (box.length) event.preventDefault();
});

// --- pairs ------------------------------------------------------------------------------------------------------------

async function fill() {
  if (state.filling || state.pairs.length >= 2) return;
  state.filling = true;
  for (;;) {
    try {
      const waiting = box.map(({ body }) => body.pair).filter(Boolean);
      const sent = state.sent;
      const have = [...state.pairs.map((one) => one.pair), ...waiting].slice(0, 8);
      const answer = await post("api/next", { by: state.by, have });
      if (!answer.by) {
        ask();
        break;
      }
      state.by = answer.by;
      if (sent === state.sent) Object.assign(state, { votes: answer.votes, skips: answer.skips });
      const known = new Set([...have, ...state.pairs.map((one) => one.pair)]);
      const before = state.pairs.length;
      state.pairs.push(...answer.pairs.filter((one) => !known.has(one.pair)));
      state.done = !state.pairs.length;
      online();
      if (!before) show();
      break;
    } catch (problem) {
      if (problem instanceof Refused) {
        tell(`This page cannot go on: ${problem.message}.`);
        if (state.by) ask();
        break;
      }
      await pause(problem);
    }
  }
  state.filling = false;
  count();
  if (!state.pairs.length && state.by) setTimeout(fill, 20000);
}

function show() {
  const pair = state.pairs[0];
  $("#pair").hidden = !pair || undoing();
  $("#done").hidden = Boolean(pair) || !state.done;
  if (!pair) return;
  state.since = performance.now();
  state.plain = null;
  press("e", false);
  press("d", false);
  $("#prompt").replaceChildren(...pair.prompt.map(turn));
  panes().forEach((pane, side) => fillText(pane, pair.sides[side]));
  window.scrollTo(0, 0);
  $("#prompt-head").focus({ preventScroll: true });
}

function turn(said) {
  const box = document.createElement("div");
  box.className = "turn text";
  box.dir = "auto";
  const text = document.createElement("div");
  fillText(text, said);
  if (said.role) {
    const role = document.createElement("p");
    role.className = "role";
    role.textContent = said.role;
    box.append(role);
  }
  box.append(text);
  return box;
}

function fillText(where, said) {
  where.innerHTML = said.html; // rendered by the server: no HTML of a text is in it
  where.dir = "auto";
  where.scrollTop = 0;
  if (said.more) {
    const cut = document.createElement("p");
    cut.className = "cut";
    cut.textContent = `… ${said.more.toLocaleString()} more characters: E shows all of it as plain text`;
    where.append(cut);
  }
}

const undoing = () => box.some(({ path }) => path === "api/undo");
const panes = () => [...document.querySelectorAll(".pane")];

function back(pairs) {
  if (!pairs) return show(); // it was refused
  state.pairs = [...pairs, ...state.pairs.filter((one) => one.pair !== pairs[0]?.pair)];
  show();
  say(pairs.length ? "Taken back." : "There is nothing to take back.");
}

// --- what a person does -----------------------------------------------------------------------------------------------

function vote(kind, winner, told) {
  const pair = undoing() ? null : state.pairs.shift();
  if (!pair) return;
  if ($("#banner").textContent.startsWith("This was refused")) tell("");
  put("api/vote", { pair: pair.pair, kind, winner, ms: Math.round(performance.now() - state.since) });
  say(told);
  show();
  fill();
}

function undo() {
  if (undoing()) return;
  put("api/undo", {});
  $("#pair").hidden = true; // until it is known what is open again
}

const ACTIONS = {
  1: () => vote("vote", state.pairs[0]?.sides[0].name, "The first is better. Next pair."),
  2: () => vote("vote", state.pairs[0]?.sides[1].name, "The second is better. Next pair."),
  0: () => vote("vote", "tie", "A tie. Next pair."),
  b: () => vote("vote", "both_bad", "Both are bad. Next pair."),
  s: () => vote("skip", "", "Skipped. Next pair."),
  backspace: undo,
  e: () => look("e"),
  d: () => look("d"),
};

document.addEventListener("keydown", (event) => {
  const action = ACTIONS[event.key.toLowerCase()];
  const elsewhere = event.ctrlKey || event.metaKey || event.altKey || event.repeat;
  if (!action || elsewhere || !state.by || event.target.matches("input")) return;
  event.preventDefault();
  action();
});

document.querySelectorAll("button[data-key]").forEach((button) => {
  button.addEventListener("click", () => ACTIONS[button.dataset.key]());
});

function press(key, on) {
  $(`button[data-key=${key}]`).setAttribute("aria-pressed", String(on));
  if (key === "e") $("#pair").classList.toggle("expanded", on);
}

const pressed = (key) => $(`button[data-key=${key}]`).getAttribute("aria-pressed") === "true";

async function look(key) {
  const pair = state.pairs[0];
  if (!pair) return;
  press(key, !pressed(key));
  const cut = [...pair.prompt, ...pair.sides].some((said) => said.more);
  if (!state.plain && (pressed("d") || (pressed("e") && cut))) {
    try {
      const plain = await post("api/whole", { pair: pair.pair });
      if (state.pairs[0] !== pair) return; // it came too late
      state.plain = plain;
    } catch {
      press(key, false);
      tell("The whole texts did not come. Try again.");
      return;
    }
  }
  view(pair, cut);
}

function view(pair, cut) {
  const texts = state.plain && pair.sides.map((side) => state.plain.texts[side.name]);
  const different = pressed("d") && difference(...texts);
  if (pressed("d") && !different) say("The texts are too long to be compared.");
  panes().forEach((pane, side) => {
    if (different) pane.replaceChildren(marked(different[side], side));
    else if (texts && pressed("e") && cut) pane.replaceChildren(marked([{ text: texts[side], other: false }], side));
    else fillText(pane, pair.sides[side]);
  });
  const prompt = texts && pressed("e") && cut && state.plain.prompt;
  $("#prompt").replaceChildren(...(prompt ? [plainTurn(prompt)] : pair.prompt.map(turn)));
}

function plainTurn(text) {
  const whole = document.createElement("div");
  whole.className = "turn text";
  whole.append(marked([{ text, other: false }], 0));
  return whole;
}

function marked(pieces, side) {
  const whole = document.createElement("pre");
  whole.dir = "auto";
  for (const { text, other } of pieces) {
    const piece = document.createElement(other && text.trim() ? (side ? "ins" : "del") : "span");
    piece.textContent = text;
    whole.append(piece);
  }
  return whole;
}

let leader = null; // the pane that a person moves; the other one follows
panes().forEach((pane, side, both) => {
  for (const kind of ["pointerenter", "focus", "wheel", "touchstart"]) {
    pane.addEventListener(kind, () => { leader = pane; }, { passive: true });
  }
  pane.addEventListener("scroll", () => {
    const other = both[1 - side];
    if (leader && leader !== pane) return;
    const room = pane.scrollHeight - pane.clientHeight;
    other.scrollTop = room > 0 ? (pane.scrollTop / room) * (other.scrollHeight - other.clientHeight) : 0;
  }, { passive: true });
});

// --- words ------------------------------------------------------------------------------------------------------------

function tell(text) {
  if ($("#banner").textContent !== text) $("#banner").textContent = text;
  $("#banner").hidden = !text;
}

function say(text) {
  $("#said").textContent = text;
}

function count() {
  const skipped = state.skips ? `, ${state.skips} skipped` : "";
  const waiting = box.length ? `, ${box.length} on the way` : "";
  $("#count").textContent = state.by ? `${state.by}: ${state.votes.toLocaleString()} votes${skipped}${waiting}` : "";
}

function ask() {
  $("#who").hidden = false;
  $("#name").value = localStorage.getItem("name") || "";
  $("#name").focus();
}

$("#who").addEventListener("submit", (event) => {
  event.preventDefault();
  state.by = $("#name").value.trim();
  localStorage.setItem("name", state.by);
  $("#who").hidden = true;
  begin();
});

function begin() {
  if (box.length) send();
  else fill();
}

begin();
