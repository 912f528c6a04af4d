{
// Texts that come from models and data are set as text, never as markup.
const data = JSON.parse(document.getElementById("page-data").textContent);
const $ = id => document.getElementById(id);
const make = (tag, classes = "", text = "") => {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text) element.textContent = text;
  return element;
};
const main = $("main");

// --- arms: shown or hidden everywhere ---
const off = new Set();
const isOff = arms => String(arms).split(" ").some(arm => off.has(arm));
function showArms() {
  for (const mark of document.querySelectorAll("[data-arm]")) mark.classList.toggle("off", isOff(mark.dataset.arm));
  for (const card of document.querySelectorAll("[data-arms]")) card.classList.toggle("off", isOff(card.dataset.arms));
}
for (const button of document.querySelectorAll("[data-toggle]")) {
  button.addEventListener("click", () => {
    const arm = button.dataset.toggle, shown = off.delete(arm);
    if (!shown) off.add(arm);
    button.setAttribute("aria-pressed", String(shown));
    showArms();
    if (data.exchanges) drawSamples();
  });
}

// --- results: filtered by name, seeds shown ---
const filter = $("run-filter"), rows = [...document.querySelectorAll("tr.result")];
filter?.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const name = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every(word => name.includes(word));
    shown += !row.hidden;
  }
  $("run-count").textContent = words.length ? `${shown} of ${rows.length}` : "";
});
const everySeed = $("every-seed");
everySeed?.addEventListener("change", () => main.classList.toggle("every-seed", everySeed.checked));

// --- what a mark of a chart says ---
const tip = $("tip");
document.addEventListener("pointerover", event => {
  const words = event.target.dataset?.tip;
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 10}px`;
});

// --- on paper, what is folded in the answer is open; of many pairs, the table has the rest ---
const folded = () => document.querySelectorAll(".card details, .alarms details, #conclude details");
addEventListener("beforeprint", () => { for (const part of folded()) part.open = true; });

// --- files to take away ---
const offered = $("downloads");
if (offered) offered.hidden = false;
for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.download;
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([data.files[name]], {type: "text/plain"}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// --- samples: searched, filtered by run, held against the reference ---
const PAGE = 8, MOST_WORDS = 900;
let room = PAGE;
const chosen = new Set((data.voices ?? []).map((voice, i) => voice.first ? i : -1).filter(i => i >= 0));
const whole = text => text[0] + text[1];

function differences(before, after) {
  // The longest common subsequence of words: [kind, words] with kind -1 gone, 0 kept, 1 added.
  const a = before.match(/\s+|[^\s]+/g) ?? [], b = after.match(/\s+|[^\s]+/g) ?? [];
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  const wide = b.length + 1, common = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * wide + j] = a[i] === b[j] ? common[(i + 1) * wide + j + 1] + 1
        : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
  const parts = [];
  const add = (kind, word) => {
    if (parts.length && parts.at(-1)[0] === kind) parts.at(-1)[1] += word; else parts.push([kind, word]);
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add(0, a[i++]); j++; }
    else if (j >= b.length || (i < a.length && common[(i + 1) * wide + j] >= common[i * wide + j + 1])) add(-1, a[i++]);
    else add(1, b[j++]);
  }
  return parts;
}

function said(text, query, against) {
  const parts = against === undefined ? null : differences(against, whole(text));
  const box = make("div");
  if (parts) {
    const p = box.appendChild(make("p", "said"));
    for (const [kind, words] of parts) p.append(kind ? make(kind > 0 ? "ins" : "del", "", words) : words);
    p.dir = "auto";
  } else {
    const [shown, rest, omitted] = text;
    const p = box.appendChild(make("p", "said", shown || "(nothing)"));
    p.dir = "auto";
    if (rest) {
      const more = box.appendChild(make("details"));
      more.append(make("summary", "", "the rest"), make("p", "said", rest));
      more.open = Boolean(query) && rest.toLowerCase().includes(query);
    }
    if (omitted) box.append(make("p", "note", `… ${omitted.toLocaleString("en")} more characters in samples.jsonl …`));
  }
  if (query) for (const p of box.querySelectorAll(".said")) highlight(p, query);
  return box;
}

function highlight(element, query) {
  for (const node of [...element.childNodes]) {
    if (node.nodeType === Node.ELEMENT_NODE) { highlight(node, query); continue; }
    const text = node.nodeValue, low = text.toLowerCase();
    if (low.length !== text.length) continue;
    const parts = [];
    let from = 0;
    for (let at = low.indexOf(query); at >= 0; at = low.indexOf(query, from)) {
      parts.push(text.slice(from, at), make("mark", "", text.slice(at, at + query.length)));
      from = at + query.length;
    }
    if (from) node.replaceWith(...parts, text.slice(from));
  }
}

function answerCard(voice, answer, reference, query) {
  const card = make("article", "answer-card"), head = card.appendChild(make("h3"));
  const swatch = document.querySelector(`[data-toggle="${voice.look}"] .swatch`);
  if (swatch) head.append(swatch.cloneNode(true), " ");
  head.append(voice.name);
  card.append(said(answer, query, reference), make("p", "note", answer[3]));
  return card;
}

function drawExchange([prompt, answers], query, diff) {
  const box = make("div", "exchange"), cards = make("div", "answers");
  box.append(make("div", "prompt"), cards);
  box.firstChild.append(said(prompt, query));
  for (const i of [...chosen].sort((a, b) => a - b)) {
    const against = diff && i && answers[0] ? whole(answers[0]) : undefined;
    if (answers[i] && !off.has(String(data.voices[i].look)))
      cards.append(answerCard(data.voices[i], answers[i], against, query));
  }
  return box;
}

function drawSamples() {
  const query = $("sample-search").value.toLowerCase(), diff = $("sample-diff").checked;
  const holds = text => whole(text).toLowerCase().includes(query);
  const found = data.exchanges.filter(([prompt, answers]) =>
    !query || holds(prompt) || [...chosen].some(i => answers[i] && holds(answers[i])));
  $("gallery").replaceChildren(...found.slice(0, room).map(exchange => drawExchange(exchange, query, diff)));
  $("sample-more").hidden = found.length <= room;
  $("sample-count").textContent = `${found.length} of ${data.exchanges.length} prompts, ${chosen.size} of ${data.voices.length} runs`;
}

function listRuns() {
  const list = document.querySelector("#sample-runs .list"), find = document.querySelector("#sample-runs input");
  data.voices.forEach((voice, i) => {
    const line = make("label"), box = line.appendChild(make("input"));
    box.type = "checkbox";
    box.checked = chosen.has(i);
    box.addEventListener("change", () => { box.checked ? chosen.add(i) : chosen.delete(i); drawSamples(); });
    line.append(" ", voice.name);
    list.append(line);
  });
  find.addEventListener("input", () => {
    for (const line of list.children) line.hidden = !line.textContent.toLowerCase().includes(find.value.toLowerCase());
  });
}

if (data.exchanges?.length) {
  $("gallery-controls").hidden = false;
  listRuns();
  for (const [id, kind] of [["sample-search", "input"], ["sample-diff", "change"]])
    $(id).addEventListener(kind, () => { room = PAGE; drawSamples(); });
  $("sample-more").addEventListener("click", () => { room += PAGE; drawSamples(); });
  document.addEventListener("keydown", event => { if (event.key === "Escape") $("sample-runs").open = false; });
  drawSamples();
}
}
