// Draws each figure with Vega when it comes near the screen, in the page's font and colours; until then, and where that
// fails, the static one stands in its place.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map(); // figure → Vega's result, and the width that it was drawn for

  const config = (width) => {
    const style = getComputedStyle(document.documentElement);
    const [ink, faint, rule] = ["--ink", "--faint", "--rule"].map((name) => style.getPropertyValue(name).trim());
    const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
    const columns = Math.max(1, Math.floor(width / 150));
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      axis: { ...text, domainColor: faint, tickColor: faint, gridColor: rule, gridOpacity: 0.6, labelLimit: 150 },
      header: text,
      legend: { ...text, orient: "bottom", columns, labelLimit: 130, symbolStrokeWidth: 2 },
    };
  };

  const PANEL = 170, LABELS = 170; // CSS pixels: the least width of a panel, and what names beside them take
  const fit = (spec, width) => {
    if (!spec.facet) return spec;
    const columns = Math.max(1, Math.min(spec.columns, Math.floor((width - LABELS) / PANEL)));
    spec.spec.width = Math.max(80, Math.min(420, Math.floor((width - LABELS) / columns) - 20));
    return { ...spec, columns };
  };

  const draw = async (figure) => {
    const chart = figure.querySelector(".chart");
    const width = figure.clientWidth;
    const earlier = drawn.get(figure);
    drawn.set(figure, { width });
    try {
      const result = await vegaEmbed(chart, fit(JSON.parse(figure.querySelector("script").textContent), width), {
        mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, ast: true, config: config(width),
        tooltip: { disableDefaultStyle: true },
      });
      earlier?.result?.finalize();
      drawn.set(figure, { width, result });
      figure.classList.add("drawn");
    } catch (error) {
      console.error(error);
      figure.classList.remove("drawn");
    }
  };

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });
  for (const data of document.querySelectorAll('figure > script[type="application/json"]')) seen.observe(data.parentElement);

  const again = () => [...drawn.keys()].forEach(draw);
  dark.addEventListener("change", again);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => drawn.forEach(({ width }, figure) => width !== figure.clientWidth && draw(figure)), 200);
  });
})();
