// Which words of two texts are not in the other: a longest common subsequence.

const MOST = 4_000_000; // cells of the table

function words(text) {
  return text.match(/\s+|[^\s]+/g) || [];
}

// [pieces of a, pieces of b], each {text, other: whether the other text lacks it}; null where the texts are too long.
export function difference(a, b) {
  const [first, second] = [words(a), words(b)];
  const width = second.length + 1;
  if ((first.length + 1) * width > MOST) return null;
  const common = new Uint16Array((first.length + 1) * width);
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      common[i * width + j] = first[i] === second[j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const found = [[], []];
  const add = (side, text, other) => {
    const last = found[side].at(-1);
    if (last && last.other === other) last.text += text;
    else found[side].push({ text, other });
  };
  let [i, j] = [0, 0];
  while (i < first.length || j < second.length) {
    if (i < first.length && j < second.length && first[i] === second[j]) {
      add(0, first[i++], false);
      add(1, second[j++], false);
    } else if (j >= second.length || (i < first.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      add(0, first[i++], true);
    } else {
      add(1, second[j++], true);
    }
  }
  return found;
}
