// The workbook's small models, in the language of the page: the same sums as in attnlab/mixers,
// attnlab/models and attnlab/distillation, one token at a time, without a library.
//
// From top to bottom: numbers out of a page, the few sums that everything is made of, mixers and
// the language model, sites and the translator, chance. A vector is a Float64Array; a matrix is the flat array of its rows, as torch keeps it.

// Numbers out of a page ---------------------------------------------------------------------------

/** Read a bundle that attnlab.web wrote: half-precision weights, packed, in letters. */
export async function unpack(bundle) {
  const packed = Uint8Array.from(atob(bundle.weights), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  // first the high bytes of all numbers, then the low ones: so they pack better
  const n = bytes.length / 2;
  const numbers = Float64Array.from({ length: 65536 }, (_, bits) => halfToNumber(bits));
  const all = new Float64Array(n);
  for (let i = 0; i < n; i++) all[i] = numbers[(bytes[i] << 8) | bytes[n + i]];
  const tensors = new Map();
  for (const [name, start, shape] of bundle.tensors) {
    const size = shape.reduce((a, b) => a * b, 1);
    tensors.set(name, { data: all.subarray(start, start + size), shape });
  }
  return tensors;
}

/** Return the number that 16 bits stand for: a sign, 5 bits of exponent, 10 of fraction. */
export function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

/** The weights of a part: `part.get("out.weight")` of "blocks.0." is "blocks.0.out.weight". */
class Weights {
  constructor(tensors, prefix = "") {
    Object.assign(this, { tensors, prefix });
  }
  has(name) {
    return this.tensors.has(this.prefix + name);
  }
  get(name) {
    if (!this.has(name)) throw new Error(`This page has no weights called ${this.prefix}${name}.`);
    return this.tensors.get(this.prefix + name);
  }
  under(name) {
    return new Weights(this.tensors, `${this.prefix}${name}.`);
  }
  linear(name) {
    const bias = this.has(`${name}.bias`) ? this.get(`${name}.bias`).data : null;
    return (x) => rowsTimes(this.get(`${name}.weight`), x, bias);
  }
  norm(name) {
    const part = this.under(name);
    return (x) => layerNorm(x, part.get("weight").data, part.get("bias").data);
  }
}

// The sums that everything is made of ---------------------------------------------------------

const EPS = 1e-5; // in a norm
const TINY = 1e-12; // the least that is divided by

const zeros = (n) => new Float64Array(n);
const plus = (a, b) => a.map((a_i, i) => a_i + b[i]);
const times = (a, b) => a.map((a_i, i) => a_i * b[i]);

function sum(a) {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i];
  return total;
}

function dot(a, b) {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}

/** y_i = sum_j W_ij x_j + b_i: torch's nn.Linear, whose rows are the outputs. */
function rowsTimes({ data, shape }, x, bias = null) {
  const n = shape[shape.length - 1];
  const y = zeros(data.length / n);
  for (let i = 0; i < y.length; i++) {
    let total = bias ? bias[i] : 0;
    for (let j = 0; j < n; j++) total += data[i * n + j] * x[j];
    y[i] = total;
  }
  return y;
}

/** Add x W to y, where the rows of W are the inputs: torch's x @ W. */
function addTimes(y, x, W) {
  const n = y.length;
  for (let j = 0; j < x.length; j++) {
    for (let i = 0; i < n; i++) y[i] += x[j] * W[j * n + i];
  }
  return y;
}

export function layerNorm(x, gain, shift) {
  const mean = sum(x) / x.length;
  const apart = x.map((x_i) => x_i - mean);
  const scale = 1 / Math.sqrt(dot(apart, apart) / x.length + EPS);
  return apart.map((x_i, i) => x_i * scale * gain[i] + shift[i]);
}

function largest(a) {
  let top = -Infinity;
  for (let i = 0; i < a.length; i++) top = Math.max(top, a[i]);
  return top;
}

export function softmax(scores) {
  const top = largest(scores);
  const exps = zeros(scores.length);
  for (let i = 0; i < exps.length; i++) exps[i] = Math.exp(scores[i] - top);
  const total = sum(exps);
  return exps.map((e) => e / total);
}

/** The error function to seven digits: Abramowitz and Stegun, 7.1.26. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - poly * Math.exp(-x * x));
}

const gelu = (x) => (x * (1 + erf(x / Math.SQRT2))) / 2;

/** The channel mixer: GELU(x K + b) V + c. */
function channelMixer(weights) {
  const [keys, values] = [weights.linear("keys"), weights.linear("values")];
  return (x) => values(keys(x).map(gelu));
}

/** What a sublayer does to the residual stream: x + f(norm(x)), or norm(x + f(x)). */
function sublayer(isPreNorm, norm, change) {
  return isPreNorm ? (x, ...more) => plus(x, change(norm(x), ...more)) : (x, ...more) => norm(plus(x, change(x, ...more)));
}

const heads = (x, n) => Array.from({ length: n }, (_, h) => x.subarray((h * x.length) / n, ((h + 1) * x.length) / n));

/** Features of one head's query or key, for look-ups that compare no pairs. */
export const FEATURES = {
  elu: (z) => z.map((z_i) => (z_i > 0 ? z_i + 1 : Math.exp(z_i))),
  relu: (z) => z.map((z_i) => Math.max(z_i, 0)),
  softmax,
  hedgehog: (z) => Float64Array.from([...softmax(z), ...softmax(z.map((z_i) => -z_i))]),
};

// Mixers: start() is the state before the first token, step(x, state) mixes one more token in. -----
// After a step, state.shares says how much each token so far counts, oldest first; they sum to one.

/** Attention: compare the newest query with all keys, average their values. */
class Attention {
  constructor(weights, config) {
    this.nHeads = config.mixer_options.n_heads ?? config.n_heads;
    this.reach = config.context_len;
    for (const name of ["query", "key", "value", "out"]) this[name] = weights.linear(name);
  }
  start() {
    return { keys: [], values: [], shares: [] };
  }
  step(x, state) {
    state.keys.push(heads(this.key(x), this.nHeads));
    state.values.push(heads(this.value(x), this.nHeads));
    if (state.keys.length > this.reach) [state.keys, state.values].forEach((kept) => kept.shift());
    const y = zeros(x.length);
    state.shares = zeros(state.keys.length);
    heads(this.query(x), this.nHeads).forEach((q, h) => {
      const scores = state.keys.map((k) => dot(q, k[h]) / Math.sqrt(q.length));
      softmax(scores).forEach((share, s) => {
        const v = state.values[s][h];
        for (let i = 0; i < v.length; i++) y[h * v.length + i] += share * v[i];
        state.shares[s] += share / this.nHeads;
      });
    });
    return this.out(y);
  }
}

/** Linear attention: a table of fixed size takes the place of all keys and values. */
class LinearAttention {
  constructor(weights, config) {
    this.nHeads = config.mixer_options.n_heads ?? config.n_heads;
    this.features = FEATURES[config.mixer_options.feature_map ?? "elu"];
    for (const name of ["query", "key", "value", "out"]) this[name] = weights.linear(name);
  }
  start() {
    return { tables: null, totals: null, seen: [], shares: [] };
  }
  step(x, state) {
    const [q, k, v] = [this.query, this.key, this.value].map((map) => heads(map(x), this.nHeads));
    const [phiQ, phiK] = [q.map(this.features), k.map(this.features)];
    state.tables ??= phiK.map((phi) => zeros(phi.length * v[0].length));
    state.totals ??= phiK.map((phi) => zeros(phi.length));
    state.seen.push(phiK); // for the eye alone: the tables need no key that has been read
    state.shares = zeros(state.seen.length);
    const found = phiQ.map((phi, h) => {
      const [table, total] = [state.tables[h], state.totals[h]];
      const n = v[h].length;
      phiK[h].forEach((k_r, r) => {
        total[r] += k_r;
        v[h].forEach((v_i, i) => (table[r * n + i] += k_r * v_i));
      });
      const share = Math.max(dot(phi, total), TINY);
      state.seen.forEach((keys, s) => (state.shares[s] += dot(phi, keys[h]) / share / this.nHeads));
      return addTimes(zeros(n), phi, table).map((y_i) => y_i / share);
    });
    return this.out(Float64Array.from(found.flatMap((y) => [...y])));
  }
}

/**
 * The Extractors: sum the past with one learned weight a lag, then multiply by what the newest
 * token says. SHE has a matrix a lag, HE a value map and a vector, WE and ME a vector.
 */
class Extractor {
  constructor(weights) {
    this.lags = weights.get("lag_weight");
    this.value = weights.has("value.weight") ? weights.linear("value") : (x) => x;
    this.out = weights.has("out.weight") ? weights.linear("out") : (x) => x;
    const own = weights.has("adjust_weight") ? weights.get("adjust_weight").data : null;
    this.gate = own ? (x) => times(x, own) : weights.linear("adjust");
    this.width = this.lags.data.length / this.lags.shape[0]; // numbers a lag
    this.kernel = Float64Array.from({ length: this.lags.shape[0] }, (_, j) => Math.sqrt(sum(this.lag(j).map((w) => w * w))));
  }
  lag(j) {
    return this.lags.data.subarray(j * this.width, (j + 1) * this.width);
  }
  start() {
    return { past: [], shares: [] }; // newest first
  }
  step(x, state) {
    state.past.unshift(this.value(x));
    if (state.past.length > this.lags.shape[0]) state.past.pop();
    const extracted = zeros(x.length);
    state.past.forEach((x_s, j) => {
      if (this.lags.shape.length === 3) addTimes(extracted, x_s, this.lag(j));
      else for (let i = 0, w = j * x.length; i < x.length; i++) extracted[i] += x_s[i] * this.lags.data[w + i];
    });
    const seen = this.kernel.subarray(0, state.past.length);
    state.shares = seen.map((w) => w / sum(seen)).reverse();
    return this.out(times(extracted, this.gate(x)));
  }
}

/** The plainest mixers: the average of the past, and nothing at all. */
class Mean {
  constructor(_, config) {
    this.reach = config.context_len;
  }
  start() {
    return { past: [], shares: [] };
  }
  step(x, state) {
    state.past.push(x);
    if (state.past.length > this.reach) state.past.shift();
    state.shares = zeros(state.past.length).fill(1 / state.past.length);
    return state.past.reduce(plus, zeros(x.length)).map((y_i) => y_i / state.past.length);
  }
}

class Identity {
  start() {
    return { shares: [1] };
  }
  step(x) {
    return x;
  }
}

export const MIXERS = {
  attention: Attention,
  linear_attention: LinearAttention,
  she: Extractor,
  he: Extractor,
  we: Extractor,
  me: Extractor,
  mean: Mean,
  identity: Identity,
};

/** Tables of vectors for tokens and positions. */
function row({ data, shape }, i) {
  return Float64Array.from(data.subarray(i * shape[1], (i + 1) * shape[1]));
}

// The language model ------------------------------------------------------------------------------

export class LanguageModel {
  constructor({ config, prefix = "" }, tensors) {
    const weights = new Weights(tensors, prefix);
    this.config = config;
    this.embedding = weights.get("token_embedding.weight");
    this.position = weights.has("position_embedding") ? weights.get("position_embedding") : null;
    this.norm = weights.norm("norm");
    this.head = weights.has("head.weight") ? weights.get("head.weight") : this.embedding;
    this.blocks = Array.from({ length: config.n_layers }, (_, i) => {
      const part = weights.under(`blocks.${i}`);
      const mixer = new MIXERS[config.mixer](part.under("mixer"), config);
      const isPre = config.norm === "pre";
      return {
        mixer,
        mix: sublayer(isPre, part.norm("mixer_norm"), (x, state) => mixer.step(x, state)),
        think: sublayer(isPre, part.norm("mlp_norm"), channelMixer(part.under("mlp"))),
      };
    });
  }
  start() {
    return { layers: this.blocks.map((block) => block.mixer.start()), position: 0 };
  }
  /** Read one token; return the logits of the next one. The state is used up. */
  step(token, state) {
    let x = row(this.embedding, token);
    if (this.position) x = plus(x, row(this.position, state.position));
    this.blocks.forEach((block, i) => (x = block.think(block.mix(x, state.layers[i]))));
    state.position += 1;
    return rowsTimes(this.head, this.norm(x));
  }
  /** Read a prompt; return the logits after it and the state. */
  read(tokens) {
    const state = this.start();
    let logits = null;
    for (const token of tokens) logits = this.step(token, state);
    return { logits, state };
  }
  /**
   * Read a prompt word by word, then go on, one chosen token after the other, without end. Where
   * the context is full the newest half of it is read again, so that positions stay those of
   * training.
   *
   * Yields what is said of each token but the first: its surprise in nats, whether it was given,
   * and how much each layer took of each token before it (`shares`), the oldest being token `first`.
   */
  *write(prompt, { temperature, random }) {
    const tokens = [prompt[0]];
    let first = 0;
    let { logits, state } = this.read(tokens);
    for (;;) {
      const isGiven = tokens.length < prompt.length;
      const token = isGiven ? prompt[tokens.length] : choose(logits, { temperature, random });
      const shares = state.layers.map((layer) => Float64Array.from(layer.shares));
      yield { token, isGiven, shares, first, surprise: -Math.log(softmax(logits)[token]) };
      tokens.push(token);
      if (state.position === this.config.context_len) {
        first = tokens.length - Math.max(1, this.config.context_len >> 1);
        ({ logits, state } = this.read(tokens.slice(first)));
      } else logits = this.step(token, state);
    }
  }
}

// Sites of a translator: what may stand where attention stood ---------------------------------
//
// All but the nets give each token s of what is read a share, head by head, and add up values:
//   y_t = sum_s share_ts v_s.  They differ in how the shares come about.

const SHARES = {
  /** A softmax of how well queries and keys fit. */
  attention: ({ q, keys }) => softmax(keys.map((k) => dot(q, k) / Math.sqrt(q.length))),
  /** All alike, whatever the words. */
  average: ({ keys }) => zeros(keys.length).fill(1 / keys.length),
  /** Products of features; exact, as in attention, for what is nearer than the window. */
  linear: ({ site, h, q, keys, lags }) => {
    const [phi, near] = [site.feature(q, "query", h), lags.map((lag) => lag < site.window)];
    const scores = keys.map((k) => dot(q, k) / Math.sqrt(q.length));
    let top = scores.reduce((a, s, i) => (near[i] ? Math.max(a, s) : a), -Infinity);
    if (site.isShared) top = Math.max(top, -60);
    const gate = site.nearGate ? 1 / (1 + Math.exp(-site.nearGate[h])) : 0;
    const fade = site.isShared ? Math.exp(-top) : 1;
    const shares = Float64Array.from(keys, (k, s) =>
      near[s] ? gate * Math.exp(scores[s] - top) : fade * dot(phi, site.feature(k, "key", h)),
    );
    const total = Math.max(sum(shares), TINY);
    return shares.map((share) => share / total);
  },
  /** Products of learnt features, each a softmax: a table of the source, asked by the query. */
  low_rank: ({ q, keys }) => {
    const phi = softmax(q);
    const shares = Float64Array.from(keys, (k) => dot(phi, softmax(k)));
    const total = Math.max(sum(shares), TINY);
    return shares.map((share) => share / total);
  },
};

/** A look-up by shares: attention, an average, linear attention with or without a window. */
class LookUp {
  constructor(kind, weights, { nHeads, options = {} }) {
    Object.assign(this, { kind, nHeads, shares: SHARES[kind] });
    const map = (name) => {
      if (kind !== "low_rank") return weights.linear(name);
      const { data, shape } = weights.get(`${name}_weight`); // (d_model, features)
      return (x) => addTimes(zeros(shape[1]), x, data);
    };
    for (const name of ["query", "key", "value"]) this[name] = map(name);
    this.features = FEATURES[options.feature_map ?? "hedgehog"];
    this.window = options.window ?? 0;
    this.isShared = options.window_scale === "shared";
    this.nearGate = weights.has("near_gate") ? weights.get("near_gate").data : null;
    if (this.window && !this.nearGate) this.nearGate = zeros(nHeads).fill(Math.log(0.1 / 0.9));
    this.weights = weights;
  }
  /** Features of one head's query or key; what was never taught reads it as it is. */
  feature(z, side, h) {
    const name = `${side}_feature_weight`;
    if (!this.weights.has(name)) return this.features(z);
    const n = z.length;
    const W = this.weights.get(name).data.subarray(h * n * n, (h + 1) * n * n);
    const shift = this.weights.has(`${side}_feature_bias`) ? this.weights.get(`${side}_feature_bias`).data : null;
    return this.features(addTimes(shift ? Float64Array.from(heads(shift, this.nHeads)[h]) : zeros(n), z, W));
  }
  read(x, state) {
    state.keys.push(heads(this.key(x), this.nHeads));
    state.values.push(heads(this.value(x), this.nHeads));
  }
  /** Ask from position t; lags are distances in the same sentence, endless in another one. */
  ask(x, t, state, isCross) {
    const y = zeros(x.length);
    const lags = state.keys.map((_, s) => (isCross ? Infinity : Math.abs(t - s)));
    heads(this.query(x), this.nHeads).forEach((q, h) => {
      const keys = state.keys.map((k) => k[h]);
      this.shares({ site: this, h, q, keys, lags }).forEach((share, s) => {
        const v = state.values[s][h];
        for (let i = 0; i < v.length; i++) y[h * v.length + i] += share * v[i];
      });
    });
    return y;
  }
  whole(xs) {
    const state = { keys: [], values: [] };
    xs.forEach((x) => this.read(x, state));
    return xs.map((x, t) => this.ask(x, t, state, false));
  }
  start(memory) {
    const state = { keys: [], values: [], position: 0, isCross: Boolean(memory) };
    (memory ?? []).forEach((x) => this.read(x, state));
    return state;
  }
  step(x, state) {
    if (!state.isCross) this.read(x, state);
    return this.ask(x, state.position++, state, state.isCross);
  }
}

/**
 * A net in the place of attention (ALR): the sentence in slots, one a position, read as one long
 * vector. Its first norm folds into the first map, so what it needs are sums over the slots.
 */
class Net {
  constructor(weights) {
    for (const name of ["norm_gain", "norm_shift", "first_weight", "first_bias", "hidden_gain", "hidden_shift", "second_weight", "second_bias"])
      this[name] = weights.get(name);
    [this.nSlots, this.dIn, this.width] = this.first_weight.shape;
    this.nOut = this.second_weight.shape[1];
    const fold = (name) => addTimes(zeros(this.width), this[name].data, this.first_weight.data);
    this.gain = fold("norm_gain");
    this.shift = plus(fold("norm_shift"), this.first_bias.data);
  }
  start() {
    return { product: zeros(this.width), total: 0, square: 0, position: 0 };
  }
  read(x, sums) {
    const slot = sums.position++;
    if (slot >= this.nSlots) throw new Error(`A net has ${this.nSlots} slots, one a word; the sentence is longer.`);
    const n = this.dIn;
    const scaled = times(x, this.norm_gain.data.subarray(slot * n, (slot + 1) * n));
    addTimes(sums.product, scaled, this.first_weight.data.subarray(slot * n * this.width, (slot + 1) * n * this.width));
    sums.total += sum(x);
    sums.square += dot(x, x);
  }
  hidden({ product, total, square }) {
    const n = this.nSlots * this.dIn;
    const mean = total / n;
    const scale = 1 / Math.sqrt(Math.max(square / n - mean * mean, 0) + EPS);
    const h = product.map((p, i) => (p - mean * this.gain[i]) * scale + this.shift[i]);
    return layerNorm(h.map((h_i) => (h_i < 0 ? 0.01 * h_i : h_i)), this.hidden_gain.data, this.hidden_shift.data);
  }
  /** What is written at place t of `nOut`, a place of `second_weight`'s columns. */
  written(h, t) {
    const { data, shape } = this.second_weight; // (width, nOut, dOut)
    const n = shape[2];
    const y = Float64Array.from(this.second_bias.data.subarray(t * n, (t + 1) * n));
    for (let r = 0; r < h.length; r++) {
      for (let i = 0; i < n; i++) y[i] += h[r] * data[(r * this.nOut + t) * n + i];
    }
    return y;
  }
  whole(xs) {
    const sums = this.start();
    xs.forEach((x) => this.read(x, sums));
    const h = this.hidden(sums);
    return xs.map((_, t) => this.written(h, t));
  }
  step(x, sums) {
    this.read(x, sums);
    return this.written(this.hidden(sums), 0);
  }
}

// The translator ----------------------------------------------------------------------------------

export const [PAD, BOS, EOS, UNK] = [0, 1, 2, 3];
export const SITES = ["encoder_self", "decoder_self", "cross"];

export class Translator {
  constructor({ config, prefix = "", stand_ins = [] }, tensors) {
    this.weights = new Weights(tensors, prefix);
    const w = this.weights;
    Object.assign(this, { config, nHeads: config.n_heads });
    const words = (side) => w.has(`${side}_embedding.weight`) && w.get(`${side}_embedding.weight`);
    this.source = words("source") || words("target"); // both languages may share one table
    this.target = words("target") || words("source");
    this.head = w.has("head.weight") ? w.get("head.weight") : this.target;
    this.norms = { encoder: w.norm("encoder_norm"), decoder: w.norm("decoder_norm") };
    this.places = new Map(); // "site layer" -> what stands there
    this.choices = new Map(); // "site layer" -> name -> what may stand there
    for (const site of SITES) {
      for (let layer = 0; layer < this.nLayers(site); layer++) this.addSite(site, layer);
    }
    for (const one of stand_ins) this.addStandIn(one, new Weights(tensors, one.prefix));
    this.layers = { encoder: this.build("encoder"), decoder: this.build("decoder") };
  }
  nLayers(site) {
    return site === "encoder_self" ? this.config.n_encoder_layers : this.config.n_decoder_layers;
  }
  at(site, layer) {
    return this.weights.under(site === "encoder_self" ? `encoder.${layer}` : `decoder.${layer}`);
  }
  /** What a site can always be: attention, the average of its values, and features of its maps. */
  addSite(site, layer) {
    const maps = this.at(site, layer).under(site === "cross" ? "cross_attention" : "self_attention");
    const own = (kind, options) => new LookUp(kind, maps, { nHeads: this.nHeads, options });
    this.choices.set(`${site} ${layer}`, new Map());
    if (!maps.has("query.weight")) return; // something else was trained in its place
    for (const kind of ["attention", "average", "linear"]) this.choices.get(`${site} ${layer}`).set(kind, own(kind, {}));
    this.put(site, layer, "attention");
  }
  /** Something that was taught or trained to stand there. */
  addStandIn({ name, site, layer, kind, options = {}, stands }, weights) {
    const one = kind === "net" ? new Net(weights.under("net")) : new LookUp(kind, weights, { nHeads: this.nHeads, options });
    this.choices.get(`${site} ${layer}`).set(name, one);
    if (stands) this.put(site, layer, name);
  }
  /** Put what is called `name` in the place of a site. */
  put(site, layer, name) {
    const one = this.choices.get(`${site} ${layer}`).get(name);
    if (!one) throw new Error(`Nothing called ${name} can stand at ${site}, layer ${layer + 1}.`);
    this.places.set(`${site} ${layer}`, one);
  }
  build(side) {
    const isPre = this.config.norm === "pre";
    const names = side === "encoder" ? ["encoder_self"] : ["decoder_self", "cross"];
    return Array.from({ length: this.nLayers(names[0]) }, (_, layer) => {
      const part = this.weights.under(`${side}.${layer}`);
      const norm = (site) => part.norm(site === "cross" ? "cross_attention_norm" : "self_attention_norm");
      const out = (site) => part.under(site === "cross" ? "cross_attention" : "self_attention").linear("out");
      const look = (site, project) => sublayer(isPre, norm(site), (x, state) => project(this.places.get(`${site} ${layer}`).step(x, state)));
      const sites = names.map((site) => ({ site, layer, norm: norm(site), out: out(site), step: look(site, out(site)) }));
      return { sites, think: sublayer(isPre, part.norm("mlp_norm"), channelMixer(part.under("mlp"))) };
    });
  }
  embed(table, side, token, position) {
    const x = row(table, token);
    if (this.config.position === "none") return x;
    const own = `${side}_position`;
    return plus(x, this.weights.has(own) ? row(this.weights.get(own), position) : waves(position, x.length));
  }
  /** Return what the decoder looks up: a vector for each word of the source. */
  encode(tokens) {
    let xs = tokens.map((token, t) => this.embed(this.source, "source", token, t));
    for (const { sites, think } of this.layers.encoder) {
      const { site, layer, norm, out } = sites[0];
      const isPre = this.config.norm === "pre";
      const found = this.places.get(`${site} ${layer}`).whole(isPre ? xs.map(norm) : xs).map(out);
      xs = xs.map((x, t) => (isPre ? plus(x, found[t]) : norm(plus(x, found[t])))).map((x) => think(x));
    }
    return xs.map(this.norms.encoder);
  }
  start(memory) {
    const begin = ({ site, layer }) => this.places.get(`${site} ${layer}`).start(site === "cross" ? memory : null);
    return { layers: this.layers.decoder.map(({ sites }) => sites.map(begin)), position: 0 };
  }
  step(token, state) {
    let x = this.embed(this.target, "target", token, state.position++);
    this.layers.decoder.forEach(({ sites, think }, i) => {
      sites.forEach((site, j) => (x = site.step(x, state.layers[i][j])));
      x = think(x);
    });
    return rowsTimes(this.head, this.norms.decoder(x));
  }
  /** Write the likeliest next word until the sentence ends. */
  translate(tokens, maxLen = this.config.max_len - 1) {
    if (!tokens.length) return [];
    const state = this.start(this.encode(tokens));
    const written = [];
    for (let newest = BOS; written.length < maxLen; written.push(newest)) {
      const logits = this.step(newest, state);
      logits[PAD] = logits[BOS] = -Infinity;
      newest = logits.indexOf(largest(logits));
      if (newest === EOS) break;
    }
    return written;
  }
}

/** Sines and cosines of a position over geometric periods. */
function waves(position, d) {
  return Float64Array.from({ length: d }, (_, i) => {
    const angle = position * Math.exp((-Math.log(10000) * 2 * (i >> 1)) / d);
    return (i % 2 ? Math.cos(angle) : Math.sin(angle)) / Math.sqrt(d);
  });
}

// Chance ------------------------------------------------------------------------------------------

/** Return a function that gives numbers between 0 and 1, the same ones for the same seed. */
export function dice(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Draw a token; temperature 0 takes the likeliest, 1 believes the model. */
export function choose(logits, { temperature, random }) {
  if (temperature === 0) return logits.indexOf(largest(logits));
  const chances = softmax(logits.map((z) => z / temperature));
  let left = random();
  for (let token = 0; token < chances.length; token++) {
    left -= chances[token];
    if (left < 0) return token;
  }
  return chances.length - 1;
}
