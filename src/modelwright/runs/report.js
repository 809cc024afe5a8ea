"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }

  function dressed(trace, place) {
    const role = trace.meta.role;
    const line = {
      raw: { width: 1 },
      main: { width: 2.2 },
      other: { width: 1.6, dash: ["solid", "dash", "dot", "dashdot"][place % 4] },
      predicted: { width: 1.6, dash: "dash" },
      masked: { width: 0 },
    }[role];
    const marker = role === "masked" ? { symbol: "x", size: 8 } : { size: 6 };
    line.color = marker.color = colour(role);
    return Object.assign({}, trace, { line: line, marker: marker, connectgaps: false });
  }

  function axis(given) {
    return Object.assign({}, given, {
      title: { text: given.title.text, font: { size: 12 }, standoff: 8 },
      gridcolor: colour("rule"), linecolor: colour("rule"), zeroline: false, automargin: true,
      tickfont: { size: 12 }, nticks: narrow.matches ? 5 : 7,
    });
  }

  function layout(figure) {
    return {
      showlegend: figure.layout.showlegend,
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      font: { family: getComputedStyle(document.body).fontFamily, color: colour("soft"), size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 44, r: 14, t: figure.layout.showlegend ? 34 : 14, b: 40 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left" },
      hovermode: "x unified", hoverlabel: { bgcolor: colour("sheet"), bordercolor: colour("rule") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("main") },
      dragmode: touch.matches ? false : "zoom",
    };
  }

  const settings = { responsive: true, displaylogo: false, displayModeBar: touch.matches ? false : "hover",
    // Named one by one, and no server: Plotly's own choice has a button that uploads the figure.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    plotlyServerURL: "" };

  function draw() {
    for (const figure of figures) {
      const place = document.getElementById("figure-" + figure.name);
      Plotly.react(place, figure.data.map(dressed), layout(figure), settings);
    }
  }

  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
