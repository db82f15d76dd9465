// ipywidgets gives the handle of a slider no accessible name: here it gets that of its label.
// A federated extension of JupyterLab and Notebook, written by hand: no build, no dependency.
(() => {
  const nameAll = () => {
    for (const slider of document.querySelectorAll(".widget-slider")) {
      const name = slider.querySelector(".widget-label")?.textContent.trim();
      const set = (element, attribute, value) => {
        if (element && name && element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
      };
      for (const handle of slider.querySelectorAll("[role=slider]")) set(handle, "aria-label", name);
      const readout = slider.querySelector(".widget-readout");
      set(readout, "role", "textbox");
      set(readout, "aria-label", `${name}, as a number`);
    }
  };
  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; nameAll(); });
  };
  const plugin = {
    id: "attnlab:names",
    autoStart: true,
    activate: () => new MutationObserver(soon).observe(document.body, { childList: true, subtree: true }),
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.attnlab = { init: async () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
})();
