// The figures of the organiser, asked for every few seconds; every text is set as text.

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
  "more votes for a lead of 10 points": (one) => (one.clear ? "told apart" : `about ${one.more}`),
};
const PEOPLE = {
  name: (one) => one.name,
  votes: (one) => one.votes,
  skips: (one) => one.skips,
  "median seconds": (one) => one.seconds ?? "–",
  "left side": (one) => percent(one.left),
  "longest streak": (one) => one.streak,
  "agrees with others": (one) => percent(one.agrees),
  "the same when asked again": (one) => (one.repeats ? `${percent(one.steady)} of ${one.repeats}` : "–"),
  "": (one) => [...one.flags, ...(one.left_out ? ["left out"] : [])].join("; "),
};

function table(where, columns, rows) {
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    for (const text of cells) {
      const cell = document.createElement(kind);
      cell.textContent = text;
      if (kind === "th") cell.scope = "col";
      row.append(cell);
    }
    return row;
  };
  const body = rows.map((one) => line(Object.values(columns).map((tell) => tell(one)), "td"));
  where.replaceChildren(line(Object.keys(columns), "th"), ...body);
  body.forEach((row) => row.lastChild.classList.toggle("flag", columns === PEOPLE));
}

async function refresh() {
  try {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
    const answer = await fetch("organiser/api/standing", { method: "POST", headers, body: "{}" });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    draw(found);
    $("#banner").hidden = true;
  } catch (problem) {
    $("#banner").textContent = `These figures are not the latest (${problem.message}). Trying again.`;
    $("#banner").hidden = false;
  }
  setTimeout(refresh, EVERY);
}

function draw(found) {
  $("#count").textContent = `${found.votes} votes on ${found.voted} of ${found.pairs} pairs, ${found.skips} skips, ` +
    `${found.ties} ties, ${found.both_bad} both bad`;
  $("#agreement").textContent = found.agreement || "Not known before two people voted on the same two pairs.";
  $("#questions-section").hidden = !found.questions.length;
  table($("#questions"), QUESTIONS, found.questions);
  table($("#people"), PEOPLE, found.people);
}

refresh();
