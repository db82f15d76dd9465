// What a page needs beside the models: words to numbers and back, the true source of the tales,
// and BLEU. The same as in attnlab/corpora, attnlab/sources and attnlab/training.

// Words -------------------------------------------------------------------------------------------

/** The words of the tales: capitals and marks as people write them. */
export class TaleWords {
  constructor(symbols) {
    this.symbols = symbols;
    this.ids = new Map(symbols.map((word, i) => [word, i]));
    this.end = this.ids.get("<end>");
  }
  /** Return the tokens of a text, and the words that no tale uses. */
  encode(text) {
    const [tokens, unknown] = [[], []];
    for (const piece of text.match(/\n|[.,!?]|[^\s.,!?]+/gu) ?? []) {
      const title = piece[0].toUpperCase() + piece.slice(1).toLowerCase();
      const known = [piece, piece.toLowerCase(), title].find((one) => this.ids.has(one));
      if (piece === "\n") tokens.push(this.end);
      else if (known === undefined) unknown.push(piece);
      else tokens.push(this.ids.get(known));
    }
    return { tokens, unknown };
  }
  /** Return how a token is written after another one, null at the start: blank and capital. */
  written(token, before) {
    const word = this.symbols[token];
    if (token === this.end) return "\n";
    if (".,!?".includes(word)) return word;
    const isFirst = before === null || before === this.end || ".!?".includes(this.symbols[before]);
    const gap = before === null || before === this.end ? "" : " ";
    return gap + (isFirst ? word[0].toUpperCase() + word.slice(1) : word);
  }
}

/** Words between blanks, each a token of its own. */
export class Words {
  constructor(symbols) {
    this.symbols = symbols;
    this.ids = new Map(symbols.map((word, i) => [word, i]));
  }
  encode(text) {
    const [tokens, unknown] = [[], []];
    for (const word of text.split(/\s+/u).filter(Boolean)) {
      const plain = word.toLowerCase().replace(/^[.,;:!?"']+|[.,;:!?"']+$/gu, "");
      const known = [word, plain].find((one) => this.ids.has(one));
      if (known === undefined) unknown.push(plain || word);
      else tokens.push(this.ids.get(known));
    }
    return { tokens, unknown };
  }
  decode(tokens) {
    return tokens.map((token) => this.symbols[token]).join(" ");
  }
}

/** Byte pairs: letters of UTF-8 bytes, joined pair by pair in the order that was learnt. */
export class BytePairs {
  constructor({ pieces, merges, first = 0 }) {
    Object.assign(this, { pieces, first });
    this.ids = new Map(pieces.map((piece, i) => [piece, i]));
    this.ranks = new Map(merges.map(([a, b], i) => [`${a} ${b}`, i]));
    const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    let n = 256;
    this.letters = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : n++));
    this.bytes = new Map(this.letters.map((letter, b) => [letter, b]));
  }
  encode(text) {
    const words = text.trim().replace(/\s+/gu, " ").match(/'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+/gu) ?? [];
    const tokens = words.flatMap((word) => this.joined([...new TextEncoder().encode(word)].map((b) => this.letters[b])));
    return { tokens: tokens.map((piece) => this.first + this.ids.get(piece)), unknown: [] };
  }
  joined(parts) {
    for (;;) {
      let [best, place] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return parts;
      // every such pair at once, from left to right
      const [a, b] = [parts[place], parts[place + 1]];
      const next = [];
      for (let i = 0; i < parts.length; i++) {
        if (parts[i] === a && parts[i + 1] === b) next.push(a + parts[++i]);
        else next.push(parts[i]);
      }
      parts = next;
    }
  }
  decode(tokens) {
    const letters = tokens.filter((t) => t >= this.first).map((t) => this.pieces[t - this.first]).join("");
    return new TextDecoder().decode(Uint8Array.from(letters, (letter) => this.bytes.get(letter)));
  }
}

// The true source of the tales --------------------------------------------------------------------

/**
 * The machine that tells the tales, asked what it says next. From the start of a tale every word
 * gives away where in the script one is; of each role (hero, thing, ...) there is a set of values
 * that it can still have, all alike, kept as the bits of a number.
 */
export class StorySource {
  constructor({ places, forms, sets, end }) {
    Object.assign(this, { places, forms, sets, end }); // forms: role, and the values that say a token
    this.valuesOf = forms.map(([, said]) => new Map(said));
  }
  start() {
    return { place: 0, possible: [...this.sets] };
  }
  /**
   * Return the chance of a token and the state after it. A word that only another hero, thing or
   * place would bring has no chance; from there on it is believed. Where no tale could go on so, the
   * state is null until the next tale begins.
   */
  step(token, state) {
    if (token === this.end) return { chance: this.chanceOf(token, state), state: this.start() };
    const arc = this.places[state?.place]?.find(([form, own]) => (form ? this.valuesOf[form].has(token) : own === token));
    if (!arc) return { chance: 0, state: null };
    const [form, , chance, to] = arc;
    if (!form) return { chance, state: { place: to, possible: state.possible } };
    const role = this.forms[form][0];
    const said = this.valuesOf[form].get(token);
    const before = state.possible[role];
    const possible = [...state.possible];
    possible[role] = before & said || said;
    return { chance: (chance * ones(before & said)) / ones(before), state: { place: to, possible } };
  }
  chanceOf(token, state) {
    return this.places[state?.place]?.find(([form, own]) => !form && own === token)?.[2] ?? 0;
  }
}

function ones(bits) {
  let n = 0;
  for (; bits; bits &= bits - 1) n++;
  return n;
}

// BLEU --------------------------------------------------------------------------------------------

/** Corpus BLEU of lists of words, up to four in a row; a count of none is smoothed. */
export function bleu(found, wanted) {
  const [right, all] = [[0, 0, 0, 0], [0, 0, 0, 0]];
  const grams = (words, n) => {
    const counts = new Map();
    for (let i = 0; i + n <= words.length; i++) {
      const gram = words.slice(i, i + n).join(" ");
      counts.set(gram, (counts.get(gram) ?? 0) + 1);
    }
    return counts;
  };
  found.forEach((words, i) => {
    for (let n = 1; n <= 4; n++) {
      const reference = grams(wanted[i], n);
      for (const [gram, count] of grams(words, n)) right[n - 1] += Math.min(count, reference.get(gram) ?? 0);
      all[n - 1] += Math.max(words.length - n + 1, 0);
    }
  });
  const [ours, theirs] = [found, wanted].map((lists) => lists.reduce((n, words) => n + words.length, 0));
  if (!right[0] || all.some((n) => !n)) return 0;
  let [logs, smooth] = [0, 1];
  for (let n = 0; n < 4; n++) logs += Math.log(right[n] ? right[n] / all[n] : 1 / ((smooth *= 2) * all[n]));
  const brevity = ours < theirs ? Math.exp(1 - theirs / ours) : 1;
  return 100 * brevity * Math.exp(logs / 4);
}
