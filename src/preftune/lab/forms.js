"use strict";
// The closed forms of this package's Python, for the page. Responses are numbered; wins[a][b] is how often a beat b.
const forms = (() => {
  const range = (n) => Array.from({length: n}, (_, i) => i);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));

  // --- two responses, uniform reference: the probability of the first, from the share of votes that it won ---
  const heard = (p, flips) => flips + (1 - 2 * flips) * p;
  const two = {
    dpo: (share, beta) => sigmoid(Math.log(share / (1 - share)) / beta),
    ipo: (share, beta) => sigmoid((share - 0.5) / beta),
  };
  const loss = {
    dpo: (h, p) => p * Math.log1p(Math.exp(-h)) + (1 - p) * Math.log1p(Math.exp(h)),
    ipo: (h, p) => (h - (p - 0.5)) ** 2,
  };

  function binomial(n, p) {
    const times = (count, log) => (count === 0 ? 0 : count * log);
    let ways = 0;
    return range(n + 1).map((k) => {
      if (k > 0) ways += Math.log(n - k + 1) - Math.log(k);
      return Math.exp(ways + times(k, Math.log(p)) + times(n - k, Math.log1p(-p)));
    });
  }

  // Mean and 5% and 95% points of a probability that grows with the number of votes won.
  function spread(method, beta, chances) {
    const n = chances.length - 1;
    const values = range(n + 1).map((k) => two[method](k / n, beta));
    const point = (level) => {
      let below = 0;
      return values.find((_, k) => (below += chances[k]) >= level) ?? values[n];
    };
    return {mean: sum(values.map((value, k) => value * chances[k])), low: point(0.05), high: point(0.95)};
  }

  // --- any number of responses ---
  function tilt(score, beta) {
    const top = Math.max(...score);
    const weights = score.map((s) => Math.exp((s - top) / beta));
    return weights.map((weight) => weight / sum(weights));
  }

  function closure(linked) {
    const reach = linked.map((row, a) => row.map((link, b) => link || a === b));
    for (const via of range(reach.length))
      for (const a of range(reach.length))
        for (const b of range(reach.length)) reach[a][b] ||= reach[a][via] && reach[via][b];
    return reach;
  }

  function solve(matrix, right) {
    const rows = matrix.map((row, i) => [...row, right[i]]);
    for (const i of range(rows.length)) {
      const pivot = range(rows.length).slice(i).reduce((x, y) => (Math.abs(rows[y][i]) > Math.abs(rows[x][i]) ? y : x));
      [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
      for (const j of range(rows.length)) {
        if (j === i) continue;
        const factor = rows[j][i] / rows[i][i];
        rows[j] = rows[j].map((value, k) => value - factor * rows[i][k]);
      }
    }
    return rows.map((row, i) => row[rows.length] / row[i]);
  }

  // A Laplacian is singular within each connected set; adding 1 there picks the solution that sums to 0.
  function laplacianSolve(pairs, right, together) {
    const matrix = pairs.map((row, a) =>
      row.map((weight, b) => (a === b ? sum(row) - weight : -weight) + (together[a][b] ? 1 : 0)));
    return solve(matrix, right);
  }

  const both = (wins) => wins.map((row, a) => row.map((w, b) => w + wins[b][a]));

  function ipoScores(wins) {
    const pairs = both(wins);
    const right = wins.map((row, a) => sum(row.map((w, b) => (w - wins[b][a]) / 2)));
    return laplacianSolve(pairs, right, closure(pairs.map((row) => row.map((n) => n > 0))));
  }

  function newton(wins) {
    const pairs = both(wins);
    const together = pairs.map((row) => row.map(() => true));
    const cost = (s) => sum(wins.map((row, a) => sum(row.map((w, b) => w * Math.log1p(Math.exp(s[b] - s[a]))))));
    let s = wins.map(() => 0);
    for (let step = 0; step < 100; step++) {
      const slope = wins.map((row, a) =>
        sum(row.map((w, b) => w * sigmoid(s[b] - s[a]) - wins[b][a] * sigmoid(s[a] - s[b]))));
      const bend = pairs.map((row, a) => row.map((n, b) => n * sigmoid(s[a] - s[b]) * sigmoid(s[b] - s[a])));
      const move = laplacianSolve(bend, slope, together);
      let size = 1;
      const at = (size) => s.map((value, a) => value + size * move[a]);
      while (size > 1e-9 && cost(at(size)) > cost(s)) size /= 2;
      s = at(size);
      if (Math.max(...move.map(Math.abs)) < 1e-12) break;
    }
    return s;
  }

  // The likeliest Bradley-Terry scores: -Infinity for responses left behind, NaN where votes do not decide.
  function likeliest(wins) {
    const all = range(wins.length);
    const beats = wins.map((row) => row.map((w) => w > 0));
    const set = closure(both(wins).map((row) => row.map((n) => n > 0)));
    const chain = closure(beats);
    const group = all.map((a) => all.filter((b) => chain[a][b] && chain[b][a]));
    const leads = all.map((a) => !all.some((b) => !group[a].includes(b) && group[a].some((c) => beats[b][c])));
    const divided = all.map((a) => all.some((b) => set[a][b] && !group[a].includes(b)));
    const ahead = all.filter((a) => leads[a] && divided[a]);
    if (ahead.some((a) => !group[a].includes(ahead[0]))) return all.map(() => NaN);
    const score = all.map(() => (ahead.length ? -Infinity : 0));
    const solved = ahead.length ? [group[ahead[0]]] : all.map((a) => group[a]);
    for (const members of solved)
      newton(members.map((a) => members.map((b) => wins[a][b]))).forEach((s, i) => (score[members[i]] = s));
    return score;
  }

  const scores = {dpo: likeliest, ipo: ipoScores};

  // The curve that gradient descent on the logits follows from a uniform reference, walked at constant speed.
  function path(method, wins, beta, stride = 0.05, most = 400) {
    let theta = wins.map(() => 0);
    const policies = [tilt(theta, 1)];
    const pairs = both(wins);
    const steepest = {dpo: 1 / 4, ipo: 2}; // bounds the curvature, so that no stride overshoots
    for (let step = 0; step < most; step++) {
      const pull = (a, b) => {
        const h = beta * (theta[a] - theta[b]);
        return method === "dpo"
          ? wins[a][b] * sigmoid(-h) - wins[b][a] * sigmoid(h)
          : wins[a][b] - wins[b][a] - 2 * pairs[a][b] * h;
      };
      const slope = wins.map((row, a) => sum(row.map((_, b) => pull(a, b))));
      const size = Math.hypot(...slope);
      if (size < 1e-9) break;
      const reach = Math.min(stride, size / (steepest[method] * beta * sum(pairs.map(sum))));
      theta = theta.map((t, a) => t + (reach * slope[a]) / size);
      policies.push(tilt(theta, 1));
    }
    return policies;
  }

  // --- votes drawn at random ---
  function generator(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function winsOf(votes, responses) {
    const wins = range(responses).map(() => range(responses).map(() => 0));
    for (const [a, b, p, weight] of votes) {
      wins[a][b] += weight * p;
      wins[b][a] += weight * (1 - p);
    }
    return wins;
  }

  function drawWins(pairs, n, p, random) {
    const drawn = range(n).map(() => pairs[Math.floor(random() * pairs.length)]);
    return winsOf(drawn.map(([a, b]) => [a, b, random() < p ? 1 : 0, 1]), 3);
  }

  return {heard, two, loss, binomial, spread, tilt, scores, path, generator, winsOf, drawWins};
})();
