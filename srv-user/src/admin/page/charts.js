// Draws the three charts over one time axis. Knows series of numbers, and neither srv nor the page.
const charts = (() => {
  const LEFT = 44, BOTTOM = 16, ROW_MAX = 14;

  /** A drawing context in CSS pixels, as wide as the canvas is shown. */
  function begin(canvas, height) {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "11px system-ui, sans-serif";
    return { context, width, height };
  }

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** Where an instant is on the time axis, which ends at `now_ms`. */
  function axis(width, now_ms, span_ms) {
    return at_ms => LEFT + (width - LEFT) * (1 - (now_ms - at_ms) / span_ms);
  }

  function times({ context, width, height }, span_ms) {
    context.fillStyle = colour("--quiet");
    context.textAlign = "right";
    context.fillText("now", width, height - 3);
    context.textAlign = "center";
    for (let s = 30; s < span_ms / 1000; s += 30)
      context.fillText(`−${s} s`, width - (width - LEFT) * s * 1000 / span_ms, height - 3);
  }

  function marks({ context, height }, x, events) {
    context.strokeStyle = colour("--warn");
    context.setLineDash([3, 3]);
    for (const event of events) {
      const at = Math.round(x(event.at_ms)) + .5;
      if (at < LEFT) continue;
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, height - BOTTOM);
      context.stroke();
      if (!event.label) continue;
      context.fillStyle = colour("--warn");
      context.textAlign = "left";
      context.fillText(event.label, at + 3, 10);
    }
    context.setLineDash([]);
  }

  /** One row for each worker; `of` gives its value at a moment. */
  function heat(canvas, moments, span_ms, rows, of, events) {
    const row = Math.max(1, Math.min(ROW_MAX, Math.floor(224 / Math.max(1, rows.length))));
    const drawing = begin(canvas, rows.length * row + BOTTOM);
    const { context, width } = drawing;
    if (!moments.length) return;
    const x = axis(width, moments.at(-1).at_ms, span_ms);
    const most = Math.max(4, ...moments.flatMap(moment => rows.map(slot => of(moment, slot) ?? 0)));
    const heat = colour("--heat");
    moments.forEach((moment, nth) => {
      const from = Math.max(LEFT, nth ? x(moments[nth - 1].at_ms) : x(moment.at_ms) - 2);
      rows.forEach((slot, at) => {
        const value = of(moment, slot);
        if (!value) return;
        context.fillStyle = `rgba(${heat}, ${.15 + .85 * Math.min(1, value / most)})`;
        context.fillRect(from, at * row, Math.max(1, x(moment.at_ms) - from), row - (row > 4 ? 1 : 0));
      });
    });
    context.fillStyle = colour("--quiet");
    context.textAlign = "right";
    const step = Math.ceil(12 / row);
    rows.forEach((slot, at) => {
      if (at % step === 0) context.fillText(slot, LEFT - 6, at * row + Math.min(row, 11));
    });
    times(drawing, span_ms);
    marks(drawing, x, events);
  }

  /** A line, and a band around it if `of` gives one: `{ low, middle, high }`, or null. */
  function line(canvas, moments, span_ms, of, events, format) {
    const drawing = begin(canvas, 120);
    const { context, width, height } = drawing;
    if (!moments.length) return;
    const x = axis(width, moments.at(-1).at_ms, span_ms);
    const points = moments.map(moment => ({ x: x(moment.at_ms), ...of(moment) }))
      .filter(point => point.middle !== undefined && point.x >= LEFT);
    const most = Math.max(1e-9, ...points.map(point => point.high)) * 1.1;
    const y = value => (height - BOTTOM) * (1 - value / most);
    context.strokeStyle = colour("--line");
    context.fillStyle = colour("--quiet");
    context.textAlign = "right";
    for (const part of [0, .5, 1]) {
      const value = most / 1.1 * part, at = Math.round(y(value)) + .5;
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(width, at);
      context.stroke();
      context.fillText(format(value), LEFT - 6, Math.max(9, at - 2));
    }
    context.fillStyle = `rgba(${colour("--heat")}, .25)`;
    context.beginPath();
    points.forEach(point => context.lineTo(point.x, y(point.high)));
    points.toReversed().forEach(point => context.lineTo(point.x, y(point.low)));
    context.fill();
    context.strokeStyle = colour("--own");
    context.lineWidth = 1.5;
    context.beginPath();
    points.forEach(point => context.lineTo(point.x, y(point.middle)));
    context.stroke();
    times(drawing, span_ms);
    marks(drawing, x, events);
  }

  return { heat, line };
})();
