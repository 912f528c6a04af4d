// The figures of the organiser, asked for every few seconds, and who is left out; every text is set as text.

const $ = (selector) => document.querySelector(selector);
const EVERY = 5000;
const token = location.hash.slice(1);

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)}%`);
const QUESTIONS = {
  comparison: (one) => one.name,
  prompts: (one) => one.prompts,
  "the first wins": (one) => percent(one.wins),
  "always valid": (one) => (one.prompts ? `${percent(one.low)} to ${percent(one.high)}` : "–"),
  "with the judge": (one) => (one.judged ? `${percent(one.judged.wins)} (${percent(one.judged.low)} to ` +
    `${percent(one.judged.high)})` : "–"),
  answer: (one) => (one.clear ? "told apart" : `not told apart; a lead of 10 points needs about ${one.more} votes more`),
};
const PEOPLE = {
  name: (one) => one.name,
  votes: (one) => one.votes,
  skips: (one) => one.skips,
  "median, s": (one) => (one.seconds === null ? "–" : one.seconds.toFixed(1)),
  "left side": (one) => percent(one.left),
  streak: (one) => one.streak,
  "agrees with others": (one) => percent(one.agrees),
  "asked again, the same": (one) => (one.repeats ? `${percent(one.steady)} of ${one.repeats}` : "–"),
  flags,
  counted: leaveOut,
};

function flags(one) {
  const told = document.createElement("span");
  told.textContent = [...one.flags, ...(one.left_out ? ["left out"] : [])].join("; ") || "none";
  told.classList.toggle("flag", told.textContent !== "none");
  return told;
}

function table(where, columns, rows) {
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    for (const said of cells) {
      const cell = document.createElement(kind);
      cell.append(said); // a text, or a button
      if (kind === "th") cell.scope = "col";
      row.append(cell);
    }
    return row;
  };
  const body = rows.map((one) => line(Object.values(columns).map((tell) => tell(one)), "td"));
  where.replaceChildren(line(Object.keys(columns), "th"), ...body);
}

// --- who counts --------------------------------------------------------------------------------------------------------

function leaveOut(one) {
  const button = document.createElement("button");
  button.textContent = one.left_out ? "count again" : "leave out";
  button.setAttribute("aria-label", `${button.textContent}: ${one.name}`);
  button.dataset.name = one.name;
  button.addEventListener("click", () => change(one.name, !one.left_out));
  return button;
}

async function change(name, out) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    draw(await post("leave-out", { by: name, out, id }));
    $("#said").textContent = out ? `${name} is left out.` : `${name} is counted again.`;
  } catch (problem) {
    tell(`This was not done (${problem.message}). Try again.`);
  }
}

// --- what is asked for -------------------------------------------------------------------------------------------------

async function post(path, body) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const answer = await fetch(`organiser/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function tell(text) {
  $("#banner").textContent = text;
  $("#banner").hidden = !text;
}

async function refresh() {
  try {
    draw(await post("standing", {}));
    tell("");
  } catch (problem) {
    tell(`These figures are not the latest (${problem.message}). Trying again.`);
  }
  setTimeout(refresh, EVERY);
}

function draw(found) {
  $("#count").textContent = `${found.votes} votes on ${found.voted} of ${found.pairs} pairs, ${found.skips} skips, ` +
    `${found.ties} ties, ${found.both_bad} both bad`;
  $("#agreement").textContent = found.agreement || "Not known before two people voted on the same two pairs.";
  const arena = found.questions.length > 0;
  $("#questions-section").hidden = $("#blind").hidden = !arena;
  $("#labels").hidden = arena;
  const { "with the judge": judged, ...alone } = QUESTIONS;
  table($("#questions"), found.questions.some((one) => one.judged) ? QUESTIONS : alone, found.questions);
  const focused = document.activeElement?.dataset.name;
  table($("#people"), PEOPLE, found.people);
  [...document.querySelectorAll("#people button")].find((button) => button.dataset.name === focused)?.focus();
}

refresh();
