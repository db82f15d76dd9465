// Panels of a page: native inputs choose among states that were recorded. No kernel, no library.
(() => {
  "use strict";
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  let count = 0;

  function build(place) {
    const panel = JSON.parse(place.querySelector("script[type='application/json']").textContent);
    const stills = place.querySelector(".attnlab-stills");
    const folder = document.documentElement.dataset.content_root || "./";
    const at = [...panel.start];
    const image = make("img", { decoding: "sync", width: panel.size[0], height: panel.size[1] });
    const link = make("a", { className: "attnlab-larger" }, image);
    const room = make("div", { className: "attnlab-room" });
    const words = make("div", { className: "attnlab-words" });
    words.setAttribute("role", "status");
    const dials = panel.dials.map((dial, n) => control(dial, n, at, draw));

    function draw() {
      let index = 0;
      panel.dials.forEach((dial, n) => { index = index * dial.labels.length + at[n]; });
      const [shown, said] = panel.states[index];
      dials.forEach((one) => one.show());
      words.innerHTML = said;
      if (/^[0-9a-f]+\.webp$/.test(shown)) {
        image.alt = (words.querySelector("em") || words).textContent;
        link.href = image.src = `${folder}_static/pictures/${shown}`;
        room.replaceChildren(link);
      } else {
        room.innerHTML = shown;
      }
    }

    const set = (values) => { values.forEach((value, n) => { at[n] = value; }); draw(); };
    const buttons = [["Reset", panel.start], ...panel.examples.map((one, n) => [`Example ${n + 1}`, one])];
    const presets = make("div", { className: "attnlab-presets" }, ...buttons.map(([name, values]) => {
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () => set(values));
      return button;
    }));
    const notes = [];
    const thinned = panel.dials.filter((dial) => dial.thin).map((dial) => dial.label);
    if (thinned.length) notes.push(`In the notebook finer steps: ${thinned.join(", ")}.`);
    if (panel.dials.some((dial) => dial.typed)) notes.push("In the notebook you can type your own.");
    const rows = make("div", { className: "attnlab-dials" }, ...dials.map((one) => one.node));
    const kept = make("details", {}, make("summary", { textContent: "The examples side by side" }), stills);
    place.prepend(rows, presets, room, words, make("p", { className: "attnlab-note", textContent: notes.join(" ") }));
    place.append(kept);
    draw();
  }

  // A dial: a slider over the places of its labels, or a list.
  function control(dial, n, at, draw) {
    const id = `attnlab-dial-${++count}`;
    const label = make("label", { htmlFor: id, textContent: dial.label });
    const input = dial.kind === "range"
      ? make("input", { id, type: "range", min: 0, max: dial.labels.length - 1, step: 1 })
      : make("select", { id }, ...dial.labels.map((text) => make("option", { textContent: text })));
    const output = make("b", { className: "attnlab-readout", ariaHidden: "true" });  // the input says it
    const show = () => {
      if (dial.kind !== "range") { input.selectedIndex = at[n]; return; }
      input.value = at[n];
      output.textContent = dial.labels[at[n]];
      input.setAttribute("aria-valuetext", dial.labels[at[n]]);
    };
    input.addEventListener("input", () => {
      at[n] = dial.kind === "range" ? Number(input.value) : input.selectedIndex;
      draw();
    });
    const row = make("span", {}, input, ...(dial.kind === "range" ? [output] : []));
    const node = make("div", { className: "attnlab-dial" }, label, row);
    if (dial.note) {
      node.append(make("small", { id: `${id}-note`, textContent: dial.note }));
      input.setAttribute("aria-describedby", `${id}-note`);
    }
    return { node, show };
  }

  // a formula that is wider than the page is drawn smaller; one that would be too small scrolls
  const fit = () => document.querySelectorAll("div.math").forEach((room) => {
    const formula = room.querySelector("mjx-container");
    if (!formula) return;
    formula.style.zoom = 1;
    formula.style.zoom = Math.max(0.65, Math.min(1, (0.97 * room.clientWidth) / formula.scrollWidth || 1));
  });
  window.addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(fit));
  window.addEventListener("resize", fit);

  // a page in a frame says how high it is, and is told whether the book is light or dark
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const tell = (frame) => {
    const { theme } = document.body.dataset;  // auto: as the system has it
    const attnlabTheme = theme === "light" || theme === "dark" ? theme : dark.matches ? "dark" : "light";
    frame.contentWindow?.postMessage({ attnlabTheme }, "*");
  };
  const tellAll = () => document.querySelectorAll("iframe").forEach(tell);
  window.addEventListener("message", ({ source, data }) => {
    const frame = [...document.querySelectorAll("iframe")].find((one) => one.contentWindow === source);
    if (!frame || !Number.isFinite(data?.attnlabHeight)) return;
    frame.style.height = `${data.attnlabHeight}px`;
    tell(frame);
  });
  dark.addEventListener("change", tellAll);

  // cells of a table that a phone stacks say what they are
  const name = (table) => {
    const heads = [...table.querySelectorAll("th")].map((one) => one.textContent.trim());
    table.querySelectorAll("tr").forEach((row) => [...row.cells].forEach((cell, n) => {
      cell.dataset.label = heads[n];
      if (/^–?$/.test(cell.textContent.trim())) cell.classList.add("attnlab-none");
    }));
  };

  // an address that names a fold opens it
  const unfold = () => {
    const fold = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (fold?.tagName !== "DETAILS") return;
    fold.open = true;
    fold.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".attnlab-live").forEach(build);
    document.querySelectorAll(".attnlab-stack table").forEach(name);
    new MutationObserver(tellAll).observe(document.body, { attributeFilter: ["data-theme"] });
    unfold();
  });
})();
