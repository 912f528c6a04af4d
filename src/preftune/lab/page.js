"use strict";
// The page: sliders and menus in, forms.js in between, charts and numbers out. State lives in the address's hash.
{
  const COLOURS = {dpo: "#2867b2", ipo: "#c8553d"};
  const NAMES = {dpo: "DPO", ipo: "IPO"};
  const METHODS = ["dpo", "ipo"];
  const RESPONSES = ["a", "b", "c"];
  const VOTES = JSON.parse(document.getElementById("votes-data").textContent);
  const CURVES = JSON.parse(document.getElementById("curves-data").textContent);
  const COUNTS = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000];
  const DRAWS = 80;
  const GREY = "#8a8f98";
  const INK = "#333a45";
  const $ = (id) => document.getElementById(id);
  const betas = Array.from({length: 61}, (_, i) => 0.02 * 150 ** (i / 60));

  // --- the state: what the sliders say ---
  const sliders = {
    beta: {at: (x) => Number((0.02 * 150 ** (x / 100)).toPrecision(2)), from: (v) => (100 * Math.log(v / 0.02)) / Math.log(150)},
    n: {at: (x) => COUNTS[x], from: (v) => COUNTS.reduce((best, c, i) => (Math.abs(c - v) < Math.abs(COUNTS[best] - v) ? i : best), 0)},
    p: {at: (x) => x / 100, from: (v) => Math.round(100 * v)},
    flips: {at: (x) => x / 100, from: (v) => Math.round(100 * v)},
  };
  const state = {beta: 0.5, n: 10, p: 1, flips: 0, votes: "D1", curves: "D1"};

  function readHash() {
    for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
      if (name in sliders && Number.isFinite(Number(text))) state[name] = Number(text);
      if (["votes", "curves"].includes(name) && text in VOTES) state[name] = text;
    }
    const bounds = {beta: [0.02, 3], n: [1, 1000], p: [0.5, 1], flips: [0, 0.4]};
    for (const [name, [low, high]] of Object.entries(bounds)) state[name] = Math.min(high, Math.max(low, state[name]));
    state.n = Math.round(state.n);
  }

  function showControls() {
    for (const [name, slider] of Object.entries(sliders)) $(name).value = slider.from(state[name]);
    for (const name of ["votes", "curves"]) $(name).value = state[name];
    tellControls();
  }

  function tellControls() {
    $("beta-value").textContent = state.beta;
    $("n-value").textContent = state.n;
    $("p-value").textContent = percent(state.p);
    $("flips-value").textContent = percent(state.flips);
  }

  const percent = (x) => `${Math.round(100 * x)}%`;
  const probability = (x) => (Number.isFinite(x) ? x.toFixed(4) : "–");

  // --- two responses ---
  function twoResponses() {
    const heard = forms.heard(state.p, state.flips);
    const chances = forms.binomial(state.n, heard);
    const rows = {};
    for (const method of METHODS)
      rows[method] = {
        truth: forms.two[method](state.p, state.beta),
        heard: forms.two[method](heard, state.beta),
        ...forms.spread(method, state.beta, chances),
      };
    return {heard, chances, rows, unanimous: chances[0] + chances[state.n]};
  }

  function showTwo() {
    const {heard, chances, rows, unanimous} = twoResponses();
    for (const method of METHODS)
      for (const column of ["truth", "heard", "mean", "low", "high"])
        $(`${method}-${column}`).textContent = probability(rows[method][column]);
    $("heard").textContent = percent(heard);
    $("unanimous").textContent = `${(100 * unanimous).toFixed(1)}%`;
    const lines = METHODS.flatMap((method) =>
      betas.map((beta) => ({method: NAMES[method], beta, ...forms.spread(method, beta, chances), truth: forms.two[method](state.p, beta)})));
    draw("two", {lines, here: [{beta: state.beta}]});
    const margins = Array.from({length: 111}, (_, i) => -2 + i / 10);
    const curves = METHODS.flatMap((method) => margins.map((h) => ({method: NAMES[method], h, loss: forms.loss[method](h, heard)})));
    const ends = [{method: "IPO", h: heard - 0.5, loss: 0}];
    if (heard < 1) ends.push({method: "DPO", h: Math.log(heard / (1 - heard)), loss: forms.loss.dpo(Math.log(heard / (1 - heard)), heard)});
    draw("losses", {curves, ends: ends.filter((end) => end.h <= 9)});
    $("minimum").textContent = heard < 1 ? `DPO's minimum is at h = ${Math.log(heard / (1 - heard)).toFixed(2)}, ` : "DPO's loss falls for ever: it has no minimum. ";
    $("minimum-ipo").textContent = `IPO's is at h = ${(heard - 0.5).toFixed(2)}.`;
  }

  // --- three responses ---
  const corner = ([a, b, c]) => ({x: (c - b) / 2, y: (a * Math.sqrt(3)) / 2});

  function showThree() {
    const pairs = VOTES[state.votes];
    const heard = forms.heard(state.p, state.flips);
    const expected = forms.winsOf(pairs.map(([a, b]) => [a, b, heard, 1]), 3);
    const paths = [], ends = [], cloud = [];
    const random = forms.generator(1);
    const drawn = Array.from({length: DRAWS}, () => forms.drawWins(pairs, state.n, heard, random));
    let undecided = 0;
    for (const method of METHODS) {
      const end = forms.tilt(forms.scores[method](expected), state.beta);
      RESPONSES.forEach((name, i) => ($(`three-${method}-${name}`).textContent = probability(end[i])));
      forms.path(method, expected, state.beta).forEach((policy, step) => paths.push({method: NAMES[method], step, ...corner(policy)}));
      ends.push({method: NAMES[method], ...corner(end), told: end.map(probability).join(", ")});
      for (const wins of drawn) {
        const policy = forms.tilt(forms.scores[method](wins), state.beta);
        if (policy.every(Number.isFinite)) cloud.push({method: NAMES[method], ...corner(policy)});
        else undecided += 1;
      }
    }
    $("undecided").textContent = undecided ? `In ${undecided} of ${DRAWS} draws DPO runs away without saying to which response; they are not drawn.` : "";
    draw("three", {paths: paths.filter((row) => Number.isFinite(row.x)), ends: ends.filter((row) => Number.isFinite(row.x)), cloud});
  }

  // --- the paper's bandits ---
  function showCurves() {
    const chosen = CURVES.filter((curve) => curve.dataset === state.curves);
    for (const curve of chosen) {
      const rows = RESPONSES.flatMap((response, i) =>
        curve.steps.map((step, t) => ({response, step, mean: curve.mean[t][i], low: curve.low[t][i], high: curve.high[t][i]})))
        .filter((row) => row.step > 0); // a log scale has no 0
      draw(`curve-${curve.method}-${curve.beta}`, {rows, ends: RESPONSES.map((response, i) => ({response, mean: curve.optimum[i]}))});
    }
  }

  // --- charts: Vega-Lite specifications; their data come later, by name ---
  const axis = {labelColor: INK, titleColor: INK, titleFontWeight: "normal", titleFontSize: 12.5, labelFontSize: 11.5, gridColor: "#eceef1", domainColor: "#c9cdd3", tickColor: "#c9cdd3"};
  const config = {font: 'system-ui, -apple-system, "Segoe UI", Inter, Roboto, Helvetica, Arial, sans-serif', background: "white", view: {stroke: null}, axis, legend: {labelFontSize: 12.5, labelColor: INK}};
  const named = (name, ...more) => Object.assign({data: {name}}, ...more);
  const quantity = (field, title, more = {}) => ({field, type: "quantitative", title, ...more});
  const colour = (legend = null) => ({field: "method", type: "nominal", scale: {domain: Object.values(NAMES), range: Object.values(COLOURS)}, legend});
  const top = {title: null, orient: "top", symbolType: "stroke", symbolSize: 200, symbolStrokeWidth: 3, symbolOpacity: 1};
  const side = () => Math.min($("three").clientWidth, 460) - 10;
  const tall = (width) => (width * 1.04) / 1.16; // the shape of the domains of x and y: the triangle is equilateral
  const specs = {
    two: () => {
      const x = quantity("beta", "β (log scale)", {scale: {type: "log", domain: [0.02, 3], nice: false}, axis: {values: [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3], format: "~g", grid: false}});
      const y = (field) => quantity(field, "probability of a", {scale: {domain: [0, 1]}});
      return {height: 300, data: ["lines", "here"], layer: [
        named("lines", {mark: {type: "area", fillOpacity: 0.16}, encoding: {x, y: y("low"), y2: {field: "high"}, color: colour(top)}}),
        named("lines", {mark: {type: "line", strokeDash: [3, 3], strokeWidth: 1.5}, encoding: {x, y: y("truth"), color: colour()}}),
        named("lines", {mark: {type: "line", strokeWidth: 2.5}, encoding: {x, y: y("mean"), color: colour()}}),
        named("here", {mark: {type: "rule", color: GREY, strokeDash: [4, 4]}, encoding: {x}}),
      ]};
    },
    losses: () => {
      const x = quantity("h", "margin h = β·(log-ratio of a − log-ratio of b)", {scale: {domain: [-2, 9], nice: false}});
      const y = quantity("loss", "expected loss of a vote", {scale: {domain: [0, 3]}});
      return {height: 300, data: ["curves", "ends"], layer: [
        named("curves", {mark: {type: "line", strokeWidth: 2.5, clip: true}, encoding: {x, y, color: colour(top)}}),
        named("ends", {mark: {type: "point", filled: true, size: 110, opacity: 1, clip: true}, encoding: {x, y, color: colour()}}),
      ]};
    },
    three: (width) => {
      const scale = (domain) => ({domain, nice: false, zero: false});
      const place = {x: quantity("x", null, {axis: null, scale: scale([-0.58, 0.58])}), y: quantity("y", null, {axis: null, scale: scale([-0.09, 0.95])})};
      const corners = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map((policy, i) => ({...corner(policy), name: RESPONSES[i]}));
      const away = [-16, 18, 18];
      const triangle = [...corners, corners[0]].map((point, step) => ({...point, step}));
      // for small β the two paths lie on one another: the wide one shows under the narrow one
      const look = (range) => ({field: "method", type: "nominal", scale: {domain: Object.values(NAMES), range}, legend: null});
      const [wide, faint] = [look([6, 2.2]), look([0.45, 1])];
      const inner = (mark, encoding, name) => named(name, {mark, encoding: {...place, ...encoding}});
      return {width, height: tall(width), data: ["paths", "ends", "cloud"], layer: [
        {data: {values: triangle}, mark: {type: "line", color: "#c9cdd3", strokeWidth: 1.5}, encoding: {...place, order: {field: "step", type: "quantitative"}}},
        ...corners.map((point, i) => ({data: {values: [point]}, mark: {type: "text", fontSize: 15, fontWeight: "bold", color: INK, dy: away[i]}, encoding: {...place, text: {field: "name", type: "nominal"}}})),
        {data: {values: [corner([1 / 3, 1 / 3, 1 / 3])]}, mark: {type: "point", shape: "cross", color: INK, size: 70, filled: true, opacity: 1}, encoding: place},
        inner({type: "point", filled: true, size: 34, opacity: 0.28}, {color: colour()}, "cloud"),
        inner({type: "line"}, {color: colour(top), strokeWidth: wide, strokeOpacity: faint, order: {field: "step", type: "quantitative"}}, "paths"),
        inner({type: "point", filled: true, size: 170, opacity: 1, stroke: "white", strokeWidth: 1.5}, {color: colour(), tooltip: [{field: "method"}, {field: "told", title: "a, b, c"}]}, "ends"),
      ]};
    },
  };
  const curveSpec = () => {
    const x = quantity("step", null, {scale: {type: "log", nice: false}, axis: {values: [10, 100, 1000, 10000], format: "~s", grid: false}});
    const y = (field) => quantity(field, null, {scale: {domain: [0, 1]}, axis: {tickCount: 5}});
    const shade = {field: "response", type: "nominal", scale: {domain: RESPONSES, range: ["#3c8d5a", "#b8860b", "#8457aa"]}, legend: null};
    return {height: 150, data: ["rows", "ends"], layer: [
      named("ends", {mark: {type: "rule", strokeDash: [4, 3], strokeWidth: 1.2}, encoding: {y: y("mean"), color: shade}}),
      named("rows", {mark: {type: "area", opacity: 0.22}, encoding: {x, y: y("low"), y2: {field: "high"}, color: shade}}),
      named("rows", {mark: {type: "line", strokeWidth: 1.8}, encoding: {x, y: y("mean"), color: shade, tooltip: [{field: "response"}, {field: "step", type: "quantitative"}, {field: "mean", type: "quantitative", format: ".4f"}]}}),
    ]};
  };

  const views = {};
  function draw(id, data) {
    const view = views[id];
    if (!view) return;
    for (const [name, rows] of Object.entries(data)) view.data(name, rows);
    view.run();
  }

  async function embed(id, spec) {
    const {data, ...rest} = spec;
    const whole = {$schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", autosize: {type: "fit-x", contains: "padding"}, config, ...rest, datasets: Object.fromEntries(data.map((name) => [name, []]))};
    if (spec.width) delete whole.autosize;
    const made = await vegaEmbed($(id), whole, {renderer: "svg", ast: true, actions: false});
    views[id] = made.view;
  }

  function show() {
    showTwo();
    showThree();
  }

  let waiting = false;
  function changed() {
    tellControls();
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      show();
    });
  }

  async function begin() {
    readHash();
    showControls();
    show(); // the numbers do not wait for the charts
    for (const [name, slider] of Object.entries(sliders))
      $(name).addEventListener("input", (event) => {
        state[name] = slider.at(Number(event.target.value));
        changed();
      });
    $("votes").addEventListener("change", (event) => {
      state.votes = event.target.value;
      changed();
    });
    $("curves").addEventListener("change", (event) => {
      state.curves = event.target.value;
      changed();
      showCurves();
    });
    addEventListener("hashchange", () => {
      readHash();
      showControls();
      show();
      showCurves();
    });
    addEventListener("resize", () => views.three?.width(side()).height(tall(side())).run());
    await Promise.all([
      embed("two", specs.two()),
      embed("losses", specs.losses()),
      embed("three", specs.three(side())),
      ...CURVES.filter((curve) => curve.dataset === "D1").map((curve) => embed(`curve-${curve.method}-${curve.beta}`, curveSpec())),
    ]);
    show();
    showCurves();
    document.documentElement.dataset.ready = "yes";
  }
  begin().catch((error) => ($("broken").textContent = `The charts could not be drawn: ${error.message}`));
}
