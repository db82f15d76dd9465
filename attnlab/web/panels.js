// The two panels of a page: writing a tale, and taking attention out of a translator.
// They stand in place of the first state that was drawn without scripts.

import { dice, LanguageModel, SITES, Translator, unpack } from "./model.js";
import { bleu, BytePairs, StorySource, TaleWords, Words } from "./words.js";

/** Make an element: h("p", { className: "x" }, "text", child). */
function h(tag, properties = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in one) one[name] = value;
    else one.setAttribute(name, value);
  }
  one.append(...children);
  return one;
}

/** A control with its label on a line of its own. */
function field(label, control, ...more) {
  return h("div", { className: "field" }, h("label", { htmlFor: control.id }, label), control, ...more);
}

function dropdown(id, choices, chosen) {
  const options = choices.map(([value, label]) => h("option", { value, selected: value === chosen }, label));
  return h("select", { id }, ...options);
}

/** Call a function a little after the last of many calls. */
function after(ms, call) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, ms);
  };
}

// Write a tale ------------------------------------------------------------------------------------

const SIGNS = { o: "●", s: "■", P: "✚", X: "✖", "*": "★", h: "⬢", d: "◆", D: "◆" };
const SHARES_ARE = {
  attention: "attention weights, mean of the heads",
  linear_attention: "shares by features, mean of the heads",
  mean: "all alike",
  identity: "itself alone",
};
const KERNEL = "lag kernel: how large the weights of each distance are";
const MOST_NATS = 4; // a bar's full height

/** One mixer's column: its tale as words that can be pointed at, and what it looked at. */
class Column {
  constructor(number, tale) {
    Object.assign(this, { number, tale, entries: [], at: 0 });
    const names = Object.entries(tale.bundle.models).map(([name, { label }]) => [name, label]);
    this.select = dropdown(`mixer-${number}`, names, tale.bundle.first.names[number]);
    this.select.addEventListener("change", () => tale.write());
    this.sign = h("span", { className: "sign", "aria-hidden": "true" });
    this.list = h("div", { className: "tale", role: "listbox", tabIndex: 0, id: `tale-${number}` });
    this.said = h("p", { className: "said" });
    this.chart = h("div", { className: "chart" });
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focus", () => this.point(this.at));
    const pointed = (event) => {
      const place = this.words().indexOf(event.target.closest("[role=option]"));
      if (place >= 0) this.point(place);
    };
    this.list.addEventListener("pointerover", pointed);
    this.list.addEventListener("click", pointed);
    const head = h("div", { className: "field" }, h("label", { htmlFor: this.select.id }, this.sign, ` Mixer ${number + 1}`), this.select);
    this.element = h("section", { className: "column" }, head, this.list, this.said, this.chart);
  }
  words() {
    return [...this.list.querySelectorAll("[role=option]")];
  }
  /** Let this column's mixer go on from the prompt. */
  write(prompt, { nWords, temperature, seed }) {
    const { tale } = this;
    const name = this.select.value;
    this.about = tale.bundle.models[name];
    this.element.style.setProperty("--own", this.about.colour);
    this.sign.textContent = SIGNS[this.about.marker] ?? "●";
    const model = (tale.running[name] ??= new LanguageModel(this.about, tale.tensors));
    let [source, started] = [tale.source.start(), performance.now()];
    this.entries = [];
    for (const entry of model.write(prompt, { temperature, random: dice(seed) })) {
      const { chance, state } = tale.source.step(entry.token, source);
      this.entries.push({ ...entry, floor: source && -Math.log(chance) });
      source = state;
      if (this.entries.length === prompt.length - 1 + nWords) break;
    }
    this.ms = (performance.now() - started) / this.entries.length;
    this.at = Math.min(Math.max(this.at, prompt.length - 1), this.entries.length - 1);
    this.draw();
  }
  draw() {
    let before = null;
    const shown = this.entries.map((entry, i) => {
      const text = this.tale.words.written(entry.token, before);
      before = entry.token;
      const isSlip = entry.floor === Infinity;
      const kind = `${entry.isGiven ? "given" : "word"}${isSlip ? " slip" : ""}`;
      const word = h("span", { className: kind, role: "option", id: `word-${this.number}-${i}` }, text.trim() || "¶");
      word.style.setProperty("--surprise", Math.min(entry.surprise / MOST_NATS, 1));
      if (Number.isFinite(entry.floor) && entry.floor !== null) word.style.setProperty("--floor", Math.min(entry.floor / MOST_NATS, 1));
      else word.classList.add("no-floor");
      return [text.startsWith(" ") ? " " : "", word, text === "\n" ? h("br") : ""];
    });
    this.list.replaceChildren(...shown.flat());
    this.list.setAttribute("aria-label", `Tale of ${this.about.label}: arrow keys move from word to word`);
    this.sum();
  }
  /** Say how surprised the mixer was, on average, where the source could have written the word. */
  sum() {
    const own = this.entries.filter((entry) => !entry.isGiven);
    const fair = own.filter((entry) => Number.isFinite(entry.floor) && entry.floor !== null);
    const [slips, lost] = [Infinity, null].map((floor) => own.filter((entry) => entry.floor === floor).length);
    const mean = (name) => (fair.reduce((total, entry) => total + entry[name], 0) / Math.max(fair.length, 1)).toFixed(2);
    const judged = `Surprise ${mean("surprise")} nats a word, true source ${mean("floor")}, over ${fair.length} of ${own.length} words. `;
    this.said.textContent =
      (fair.length ? judged : "After this beginning the source has no chance for any word: none can be judged. ") +
      `${slips} of ${own.length} words the source would never say there${lost ? `, ${lost} after it lost the thread` : ""}. ` +
      `${this.ms.toFixed(1)} ms a word.`;
  }
  key(event) {
    const last = this.entries.length - 1;
    const to = { ArrowRight: this.at + 1, ArrowDown: this.at + 1, ArrowLeft: this.at - 1, ArrowUp: this.at - 1, Home: 0, End: last };
    if (!(event.key in to)) return;
    event.preventDefault();
    this.point(Math.min(Math.max(to[event.key], 0), last));
  }
  /** Shade the words before one by what the mixer took of each, and say it. */
  point(place) {
    this.at = place;
    this.list.setAttribute("aria-activedescendant", `word-${this.number}-${place}`);
    const { shares, first } = this.entries[place];
    const own = shares[Math.min(this.tale.layer, shares.length - 1)];
    const most = own.indexOf(own.reduce((a, b) => Math.max(a, b), 0));
    this.words().forEach((word, i) => {
      word.setAttribute("aria-selected", i === place);
      const share = own[i + 1 - first] ?? 0; // token 0 is the end of the tale before
      word.style.setProperty("--share", i < place ? share / own[most] : 0);
    });
    this.drawShares(own);
    this.tale.say(this.sentence(place, own, most, first));
  }
  sentence(place, own, most, first) {
    const { token, surprise, floor } = this.entries[place];
    const name = (i) => (i ? `“${this.tale.bundle.words.symbols[this.entries[i - 1].token]}”` : "the beginning");
    const fits = floor === Infinity ? "the true source would never say it here" : `true source ${floor?.toFixed(2)}`;
    return (
      `${this.about.label}, word ${place + 1}, “${this.tale.bundle.words.symbols[token]}”: surprise ${surprise.toFixed(2)} nats, ` +
      `${floor === null ? "the source has lost the thread" : fits}. Layer ${this.tale.layer + 1} gave most to ` +
      `${name(first + most)}, ${own.length - most} back: ${(100 * own[most]).toFixed(0)} %.`
    );
  }
  /** Draw shares by distance as bars. */
  drawShares(own) {
    const [n, top] = [this.about.config.context_len, Math.max(...own)];
    const bars = [...own].reverse().map((share, lag) => `<rect x="${lag}" y="${(1 - share / top).toFixed(3)}" width="0.8" height="${(share / top).toFixed(3)}"/>`);
    const what = SHARES_ARE[this.about.config.mixer] ?? KERNEL;
    this.chart.innerHTML =
      `<svg viewBox="0 0 ${n} 1" preserveAspectRatio="none" role="img" aria-label="Shares by distance; the largest is ${(100 * top).toFixed(0)} %">${bars.join("")}</svg>` +
      `<div class="axis"><span>1 back</span><span>${n} words back</span></div><p class="small">Layer ${this.tale.layer + 1}: ${what}. Tallest ${(100 * top).toFixed(0)} %.</p>`;
  }
}

/** Several mixers go on from the same beginning; each word has its surprise and the true one. */
class Tale {
  constructor(root, bundle, tensors) {
    Object.assign(this, { bundle, tensors, running: {}, layer: 0, seed: bundle.first.seed });
    this.words = new TaleWords(bundle.words.symbols);
    this.source = new StorySource(bundle.source);
    const { first } = bundle;
    this.prompt = h("input", { id: "prompt", type: "text", value: first.prompt, maxLength: 300, spellcheck: false });
    this.temperature = h("input", { id: "temperature", type: "range", min: 0, max: 1.5, step: 0.1, value: first.temperature });
    this.shown = h("output", { htmlFor: "temperature" });
    this.layers = dropdown("layer", [["0", "Layer 1"], ["1", "Layer 2"]], "0");
    const again = h("button", { type: "button", id: "again" }, "Other dice");
    const reset = h("button", { type: "button", id: "reset" }, "Reset");
    this.note = h("p", { className: "note" });
    this.status = h("p", { className: "status", role: "status", "aria-live": "polite" });
    this.columns = first.names.map((_, number) => new Column(number, this));
    const soon = after(120, () => this.write());
    this.prompt.addEventListener("input", soon);
    this.temperature.addEventListener("input", soon);
    this.layers.addEventListener("change", () => this.look(Number(this.layers.value)));
    again.addEventListener("click", () => this.write(this.seed + 1));
    reset.addEventListener("click", () => this.reset());
    const controls = h(
      "form",
      { className: "controls", onsubmit: (event) => event.preventDefault() },
      field("Beginning of the tale", this.prompt, this.note),
      field("Temperature (0: the likeliest word)", this.temperature, this.shown),
      field("Shade by", this.layers),
      h("div", { className: "buttons" }, again, reset),
    );
    root.replaceChildren(controls, h("div", { className: "columns" }, ...this.columns.map((c) => c.element)), this.status);
    this.write();
  }
  write(seed = this.seed) {
    this.seed = seed;
    const { tokens, unknown } = this.words.encode(this.prompt.value);
    this.note.textContent = unknown.length ? `No tale has ${[...new Set(unknown)].map((w) => `“${w}”`).join(", ")}; left out.` : "";
    const temperature = Number(this.temperature.value);
    this.shown.textContent = temperature.toFixed(1);
    const how = { nWords: this.bundle.first.n_words, temperature, seed };
    for (const column of this.columns) column.write([this.words.end, ...tokens.slice(0, 60)], how);
    this.look(this.layer);
  }
  /** Shade by another layer; the first column, pointed at last, has the word. */
  look(layer) {
    this.layer = layer;
    for (const column of [...this.columns].reverse()) column.point(column.at);
  }
  reset() {
    const { first } = this.bundle;
    Object.assign(this.prompt, { value: first.prompt });
    Object.assign(this.temperature, { value: first.temperature });
    this.columns.forEach((column, i) => Object.assign(column, { at: 0 }).select.value = first.names[i]);
    this.layers.value = "0";
    this.layer = 0;
    this.write(first.seed);
  }
  say(sentence) {
    this.status.textContent = sentence;
  }
}

// Take attention out ------------------------------------------------------------------------------

const SITE_NAMES = { encoder_self: "Encoder", decoder_self: "Decoder", cross: "Cross" };
const AT_ONCE = 5; // sentences between two looks at what the reader does

/** A translator with a switch at each place where it looks something up. */
class TakeOut {
  constructor(root, bundle, tensors) {
    this.bundle = bundle;
    this.model = new Translator(bundle.models.translator, tensors);
    const { kind } = bundle.words;
    this.words = kind === "byte pairs" ? new BytePairs(bundle.words) : new Words(bundle.words.symbols);
    this.scores = new Map();
    this.turn = 0;
    this.addControls(root);
    this.update();
  }
  addControls(root) {
    const { first, held_out: pairs } = this.bundle;
    this.sentence = h("input", { id: "sentence", type: "text", value: first.sentence, maxLength: 200, spellcheck: false });
    this.note = h("p", { className: "note" });
    const soon = after(120, () => this.update());
    this.sentence.addEventListener("input", soon);
    this.switches = new Map();
    const rows = SITES.map((site) => this.row(site, soon));
    const head = h("tr", {}, h("th", { scope: "col" }, "Where"), ...this.depths().map((i) => h("th", { scope: "col" }, `Layer ${i + 1}`)));
    const table = h("table", { className: "switches" }, h("caption", {}, "What stands where attention stood"), h("thead", {}, head), h("tbody", {}, ...rows));
    const button = (id, label, call) => h("button", { type: "button", id, onclick: call }, label);
    const every = Object.entries(this.bundle.everywhere).map(([name, label]) => button(`all-${name}`, label, () => this.putAll(name)));
    if (pairs.length) every.push(button("other", "Another sentence", () => this.another()));
    this.texts = Object.fromEntries(["read", "whole", "written"].map((id) => [id, h("dd", { id })]));
    this.bars = h("div", { className: "bars" });
    this.status = h("p", { className: "status", role: "status", "aria-live": "polite" });
    const texts = { read: "Read", whole: "Attention everywhere", written: "With these switches" };
    const list = h("dl", { className: "texts" }, ...Object.entries(texts).flatMap(([id, label]) => [h("dt", {}, label), this.texts[id]]));
    const form = h("form", { className: "controls", onsubmit: (event) => event.preventDefault() }, field(first.label, this.sentence, this.note), ...this.known(), table, h("div", { className: "buttons" }, ...every));
    root.replaceChildren(h("div", { className: "sides" }, form, h("div", { className: "found" }, list, this.bars, this.status)));
  }
  /** The words that a small language has, in a fold, and how a sentence is made of them. */
  known() {
    const { known } = this.bundle;
    if (!known) return [];
    const how = "A sentence: one of the first words, perhaps an adjective, a noun; perhaps a place and such a group again; a verb; perhaps a last group. Words never change: two cat see a dog.";
    const kinds = Object.entries(known).map(([kind, words]) => h("p", { className: "small" }, h("b", {}, `${kind}: `), words.join(", ")));
    return [h("details", { className: "known" }, h("summary", {}, "Words of the toy language"), ...kinds, h("p", { className: "small" }, how))];
  }
  depths() {
    return Array.from({ length: Math.max(...SITES.map((site) => this.model.nLayers(site))) }, (_, i) => i);
  }
  row(site, soon) {
    const cells = this.depths().map((layer) => {
      const there = this.model.choices.get(`${site} ${layer}`);
      if (!there) return h("td", {}, "–");
      const labels = this.bundle.labels[site] ?? {};
      const choices = [...there.keys()].map((name) => [name, labels[name] ?? this.bundle.labels.all[name]]);
      const select = dropdown(`${site}-${layer}`, choices, choices[0][0]);
      select.setAttribute("aria-label", `${SITE_NAMES[site]}, layer ${layer + 1}`);
      select.addEventListener("change", soon);
      this.switches.set(`${site} ${layer}`, select);
      return h("td", {}, h("span", { className: "layer", ariaHidden: "true" }, `Layer ${layer + 1}`), select);
    });
    return h("tr", {}, h("th", { scope: "row" }, SITE_NAMES[site]), ...cells);
  }
  putAll(name) {
    for (const select of this.switches.values()) {
      const has = [...select.options].some((option) => option.value === name);
      select.value = has ? name : select.options[0].value;
    }
    this.update();
  }
  another() {
    this.example = ((this.example ?? 0) + 1) % this.bundle.held_out.length; // the first is shown
    this.sentence.value = this.words.decode(this.bundle.held_out[this.example][0]);
    this.update();
  }
  /** Put everything where the switches say, or what stood there at first. */
  placeAll(isFirst = false) {
    for (const [place, select] of this.switches) {
      const [site, layer] = place.split(" ");
      this.model.put(site, Number(layer), isFirst ? select.options[0].value : select.value);
    }
  }
  translated(tokens) {
    try {
      return this.words.decode(this.model.translate(tokens));
    } catch (error) {
      return error.message; // a net has no more slots
    }
  }
  async update() {
    const turn = ++this.turn;
    const { tokens, unknown } = this.words.encode(this.sentence.value);
    const longest = this.model.config.max_len - 1;
    const read = tokens.slice(0, longest);
    const loud = this.words.pieces && /\p{Lu}{3,}/u.test(this.sentence.value);
    const lost = [loud && "It has hardly seen words in capitals: write them as usual.", unknown.length && `Not read: ${unknown.map((word) => `“${word}”`).join(", ")}.`, tokens.length > longest && `Only the first ${longest} ${this.words.pieces ? "pieces" : "words"} are read.`];
    this.note.textContent = lost.filter(Boolean).join(" ");
    this.texts.read.textContent = this.words.decode(read) || "(nothing)";
    this.placeAll(true);
    const whole = this.translated(read).split(" ");
    this.texts.whole.textContent = whole.join(" ");
    this.placeAll();
    const written = this.translated(read).split(" ");
    const isOther = (word, i) => word !== whole[i];
    const marked = written.map((word, i) => [i ? " " : "", isOther(word, i) ? h("mark", {}, word) : word]);
    this.texts.written.replaceChildren(...marked.flat());
    const n = written.filter(isOther).length + Math.max(whole.length - written.length, 0);
    const how = !read.length ? "Nothing to read" : `${n ? `${n} of ${Math.max(whole.length, written.length)} words differ` : "The same sentence"}`;
    this.status.textContent = `${how}: ${this.said()}.`;
    await this.measure(turn, how);
  }
  /** Say what stands where, a site at a time. */
  said() {
    const small = (label) => label[0].toLowerCase() + label.slice(1);
    const at = (site) => [...this.switches].filter(([place]) => place.startsWith(site)).map(([, select]) => select.selectedOptions[0].textContent);
    return SITES.map((site) => `${SITE_NAMES[site].toLowerCase()} ${[...new Set(at(site))].map(small).join(" and ")}`).join("; ");
  }
  /** Say what the switches are set to, place by place: the key of a record. */
  setting() {
    return [...this.switches.values()].map((select) => select.value).join(" ");
  }
  /** BLEU on held-out sentences, some at a time, so that the page still hears its reader. */
  async measure(turn, how) {
    const [pairs, setting] = [this.bundle.held_out, this.setting()];
    const firsts = [...this.switches.values()].map((select) => select.options[0].value).join(" ");
    for (const [key, isFirst] of [[firsts, true], [setting, false]]) {
      if (this.scores.has(key) || !pairs.length) continue;
      const found = [];
      for (let i = 0; i < pairs.length; i++) {
        this.placeAll(isFirst);
        found.push(this.model.translate(pairs[i][0]).map(String));
        if (i % AT_ONCE) continue;
        await new Promise((done) => setTimeout(done));
        if (turn !== this.turn) return;
      }
      this.scores.set(key, bleu(found, pairs.map(([, wanted]) => wanted.map(String))));
    }
    this.drawBars(this.scores.get(setting), this.scores.get(firsts));
    this.status.textContent = `${how}: ${this.said()}. ${this.lost(setting, firsts)}`;
  }
  recorded(setting) {
    return this.bundle.recorded.find((each) => each.setting === setting);
  }
  lost(setting, firsts) {
    const [here, whole] = [this.scores.get(setting), this.scores.get(firsts)];
    const own = this.recorded(setting);
    const measured = here === undefined ? "" : `BLEU here ${here.toFixed(1)}, lost ${Math.max(whole - here, 0).toFixed(1)}. `;
    return measured + (own ? `Recorded ${own.bleu.toFixed(1)} (${own.low.toFixed(1)} to ${own.high.toFixed(1)}).` : "No record has these switches.");
  }
  drawBars(here, whole) {
    const own = this.recorded(this.setting());
    const bar = (label, value, wanted, range) => {
      const line = h("div", { className: "bar", "aria-hidden": "true" });
      line.style.setProperty("--value", value / 100);
      line.style.setProperty("--whole", wanted / 100);
      return [h("p", { className: "small" }, `${label}: ${value.toFixed(1)}${range}`), line];
    };
    const bars = [];
    if (here !== undefined) bars.push(...bar(`BLEU on ${this.bundle.held_out.length} held-out sentences, measured here`, here, whole, `, lost ${Math.max(whole - here, 0).toFixed(1)}`));
    if (own) bars.push(...bar(`BLEU on record, ${own.words}`, own.bleu, this.bundle.recorded[0].bleu, ` (${own.low.toFixed(1)} to ${own.high.toFixed(1)})`));
    else bars.push(h("p", { className: "small" }, "On record: nothing with just these switches."));
    this.bars.replaceChildren(...bars);
  }
}

const PANELS = { tale: Tale, "take out": TakeOut };

/** Put a bundle's panel in the place of an element's first state. */
export async function start(root, bundle) {
  if (window.parent !== window) follow(window.parent);
  const panel = new PANELS[bundle.panel](root, bundle, await unpack(bundle));
  root.dataset.isLive = "true";
  return panel;
}

/** Within a frame: say how high the page is, and be light or dark as the page around says. */
function follow(parent) {
  window.addEventListener("message", ({ source, data }) => {
    if (source !== parent || !/^(light|dark)$/.test(data?.attnlabTheme)) return;
    document.documentElement.dataset.theme = data.attnlabTheme;
  });
  const tell = () => parent.postMessage({ attnlabHeight: Math.ceil(document.body.scrollHeight) + 40 }, "*");
  new ResizeObserver(tell).observe(document.body);
}
