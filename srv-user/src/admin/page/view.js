// The page: shows what the model has, and asks for a switch of the policy.
(() => {
  const at = id => document.getElementById(id);
  let shown = null;

  const number = (value, digits = 0) => value == null ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const duration = ns => ns == null ? "–"
    : ns < 1e6 ? `${number(ns / 1e3)} µs` : ns < 1e9 ? `${number(ns / 1e6, ns < 1e7 ? 1 : 0)} ms` : `${number(ns / 1e9, 1)} s`;
  const share = part => part == null ? "–" : `${number(100 * part)} %`;

  /** Sets text only where it differs, so that a reader's selection stays. */
  function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function figure(id, text, beneath) {
    const node = at(id);
    const small = document.createElement("small");
    small.textContent = beneath ?? "";
    node.replaceChildren(text, ...(beneath ? [small] : []));
  }

  function showHead(answer, view) {
    const { status, attached } = answer;
    const name = status ? status.command ?? "srv" : attached.server;
    say(at("title"), `${name} on ${view.listen}`);
    document.title = `${name} ${view.listen}`;
    const steering = at("steering");
    const how = view.program.attached
      ? `steered by ${status?.policy ?? attached.policy}` : `the kernel's hash decides${view.program.why_not ? `: ${view.program.why_not}` : ""}`;
    say(steering, status ? `${how}; accept mode ${status.accept}` : how);
    steering.className = view.program.attached ? "good" : "warn";
    if (document.activeElement !== at("policy")) at("policy").value = status?.policy ?? attached.policy;
  }

  function showGroups() {
    const buttons = model.groups.size < 2 ? [] : [...model.groups.keys()].map(listen => {
      const button = document.createElement("button");
      button.textContent = listen;
      button.setAttribute("aria-pressed", listen === shown);
      button.onclick = () => { shown = listen; show(); };
      return button;
    });
    at("groups").replaceChildren(...buttons);
  }

  function showFigures(view) {
    figure("accepts", number(view.accepts_per_s), view.stolen_share == null ? "" : `${share(view.stolen_share)} by a sibling`);
    figure("requests", number(view.requests_per_s));
    figure("connections", number(view.open));
    figure("waiting", number(view.waiting), `most at one worker: ${number(Math.max(0, ...view.workers.map(worker => worker.waiting ?? 0)))}`);
    figure("delay", duration(view.delay_p99_ns));
    figure("spread", number(view.cv, 3), view.max_over_mean == null ? "" : `most / mean: ${number(view.max_over_mean, 2)}`);
  }

  function cell(text, name) {
    const node = document.createElement("td");
    node.textContent = text;
    if (name) node.className = name;
    return node;
  }

  function row(worker, most) {
    const bar = cell("", "bar"), track = document.createElement("span");
    track.className = "track";
    const rate = worker.accepts_per_s ?? 0;
    for (const part of [1 - worker.stolen_share, worker.stolen_share]) {
      const piece = document.createElement("i");
      piece.style.width = `${100 * part * rate / most}%`;
      track.append(piece);
    }
    bar.append(track);
    const grade = { hung: "bad", dead: "bad", full: "warn", draining: "warn" }[worker.state] ?? "";
    const node = document.createElement("tr");
    node.append(cell(worker.slot), cell(worker.state, grade), cell(worker.pid || "–", "wide"), cell(number(rate)), bar,
      cell(number(worker.open)), cell(number(worker.waiting)), cell(share(worker.busy_share)),
      cell(duration(worker.delay_p99_ns), "wide"));
    return node;
  }

  function showCharts({ view, moments }) {
    const rows = view.workers.map(worker => worker.slot), span_ms = model.span_ms(moments);
    charts.heat(at("queues"), moments, span_ms, rows, (moment, slot) => moment.by_slot.get(slot)?.waiting, model.events);
    charts.line(at("shares"), moments, span_ms, ({ view }) => {
      const rates = view.workers.map(worker => worker.accepts_per_s).filter(rate => rate != null);
      return rates.length ? {
        low: Math.min(...rates), high: Math.max(...rates),
        middle: rates.reduce((sum, rate) => sum + rate, 0) / rates.length,
      } : {};
    }, model.events, value => number(value));
    charts.line(at("spreads"), moments, span_ms, ({ view }) =>
      view.cv == null ? {} : { low: view.cv, middle: view.cv, high: view.cv }, model.events, value => number(value, 2));
  }

  function showEvents() {
    const list = at("events");
    if (!model.events.length || list.dataset.newest === String(model.events[0].at_ms) + model.events.length) return;
    list.dataset.newest = String(model.events[0].at_ms) + model.events.length;
    list.replaceChildren(...model.events.map(event => {
      const node = document.createElement("li"), time = document.createElement("time");
      time.textContent = new Date(event.at_ms).toLocaleTimeString();
      const text = document.createElement("span");
      text.textContent = event.text;
      text.className = event.grade;
      node.append(time, text);
      return node;
    }));
  }

  function show() {
    const answer = model.newest();
    if (!answer || document.hidden) return;
    if (!model.groups.has(shown)) shown = [...model.groups.keys()][0];
    const group = model.groups.get(shown);
    if (!group) return;
    showHead(answer, group.view);
    showGroups();
    showFigures(group.view);
    const most = Math.max(1, ...group.view.workers.map(worker => worker.accepts_per_s ?? 0));
    at("workers").replaceChildren(...group.view.workers.map(worker => row(worker, most)));
    showCharts(group);
    showEvents();
  }

  async function switchPolicy(event) {
    event.preventDefault();
    const headers = { "content-type": "application/json" }, body = JSON.stringify({ policy: at("policy").value });
    try {
      const answer = await fetch("policy", { method: "POST", headers, body });
      say(at("policy-answer"), (await answer.text()).trim());
    } catch (error) {
      say(at("policy-answer"), `the server does not answer: ${error.message}`);
    }
    at("policy").blur();
  }

  /** Only over the Unix socket may a client switch. */
  async function offerPolicies() {
    try {
      const { policies, may_switch } = await (await fetch("policy")).json();
      at("policy").replaceChildren(...policies.map(name => new Option(name, name)));
      at("policy-form").hidden = !may_switch;
    } catch {
      at("policy-form").hidden = true;
    }
  }

  function follow() {
    const source = new EventSource("events"), link = at("link");
    source.onopen = () => { say(link, ""); offerPolicies(); };
    source.addEventListener("status", message => {
      say(link, "");
      model.take(JSON.parse(message.data));
      show();
    });
    source.addEventListener("lost", message => say(link, JSON.parse(message.data).error));
    source.onerror = () => {
      say(link, "no connection to the server; trying again");
      // After an answer that is no stream of events, a browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 1000);
    };
  }

  at("policy-form").onsubmit = switchPolicy;
  addEventListener("resize", show);
  document.addEventListener("visibilitychange", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  follow();
})();
