// What the server said: the groups of the newest answer, their moments of the last minutes, and the
// events between two answers. Knows the JSON of `/events`, and nothing of the page.
const model = (() => {
  const SPAN_MS = 180_000, SPAN_MIN_MS = 60_000, EVENTS_MAX = 200;
  const groups = new Map(), events = [];
  let newest = null;

  /** Takes an event: `{ time_ms, status, rates }`. */
  function take(event) {
    const { groups: own, foreign } = event.status;
    const answer = {
      at_ms: event.time_ms, intervals: event.rates,
      ...(own ? { status: event.status } : { attached: foreign[0] }),
    };
    if (newest) notice(newest, answer);
    newest = answer;
    const seen = own ?? foreign;
    seen.forEach((group, nth) => {
      const interval = answer.intervals.find(one => one.listen === group.listen) ?? {};
      const view = answer.status ? served(group, interval) : attached(group, interval);
      const kept = groups.get(group.listen) ?? { moments: [] };
      const moment = { at_ms: answer.at_ms, view, by_slot: new Map(view.workers.map(worker => [worker.slot, worker])) };
      const moments = kept.moments.filter(one => one.at_ms > answer.at_ms - SPAN_MS);
      groups.set(group.listen, { nth, view, moments: [...moments, moment] });
    });
    for (const listen of groups.keys())
      if (!seen.some(group => group.listen === listen)) groups.delete(listen);
  }

  /** A group of srv's own workers, or of a server under `srv run`. */
  function served(group, interval) {
    const workers = group.workers.filter(worker => worker.state !== "absent").map(worker => {
      const nth = group.workers.indexOf(worker), rates = interval.workers?.[nth] ?? {};
      return {
        slot: worker.slot, state: worker.state, pid: worker.pid, open: worker.active, waiting: worker.waiting,
        accepts_per_s: rates.accepts_per_s, stolen_share: rates.stolen_share ?? 0,
        busy_share: rates.busy_share, delay_p99_ns: rates.accept_delay_p99_ns,
      };
    });
    return {
      listen: group.listen, workers, program: group.program,
      accepts_per_s: interval.accepts_per_s, requests_per_s: interval.requests_per_s,
      stolen_share: interval.stolen_share, cv: interval.accepts_cv, max_over_mean: interval.accepts_max_over_mean,
      open: group.totals.active, waiting: group.totals.waiting, delay_p99_ns: interval.accept_delay_p99_ns,
    };
  }

  /** Another server's group: a row for each of its listeners. */
  function attached(group, interval) {
    const workers = group.listeners.map((listener, nth) => ({
      slot: listener.slot ?? nth, state: "listening", pid: listener.pids?.[0], open: listener.active,
      waiting: listener.queued, accepts_per_s: interval.workers?.[nth]?.accepts_per_s, stolen_share: 0,
    }));
    const sum = of => workers.every(worker => of(worker) != null)
      ? workers.reduce((sum, worker) => sum + of(worker), 0) : undefined;
    return {
      listen: group.listen, workers, program: group.program, accepts_per_s: interval.accepts_per_s,
      cv: interval.accepts_cv, max_over_mean: interval.accepts_max_over_mean,
      open: sum(worker => worker.open), waiting: sum(worker => worker.waiting),
    };
  }

  /** Notes what changed between two answers. */
  function notice(before, after) {
    const note = (text, grade, label) => {
      events.unshift({ at_ms: after.at_ms, text, grade, label });
      events.length = Math.min(events.length, EVENTS_MAX);
    };
    const [old, now] = [before.status ?? before.attached, after.status ?? after.attached];
    if (before.status && after.status && old.pid !== now.pid)
      return note(`another master process: ${old.pid} → ${now.pid}`, "warn");
    const is_switched = old.policy !== now.policy;
    if (is_switched) note(`policy ${old.policy} → ${now.policy}`, "good", now.policy);
    if (old.reload && now.reload && old.reload.succeeded_at_s !== now.reload.succeeded_at_s)
      note("settings reloaded", "good");
    if (old.reload?.succeeded && now.reload?.succeeded === false) note("a reload failed: see the log", "bad");
    if (now.listen_overflows > old.listen_overflows)
      note(`accept queues overflowed ${now.listen_overflows - old.listen_overflows} times`, "bad");
    const of = answer => answer.status ? answer.status.groups : [answer.attached];
    for (const group of of(after)) {
      const earlier = of(before).find(one => one.listen === group.listen);
      if (earlier) noticeGroup(earlier, group, is_switched, note);
    }
  }

  function noticeGroup(before, after, is_switched, note) {
    const where = after.listen;
    if (!is_switched && before.program.attached !== after.program.attached)
      note(after.program.attached ? `${where}: the program decides` : `${where}: the kernel's hash decides (${after.program.why_not})`,
        after.program.attached ? "good" : "warn");
    for (const [reason, count] of Object.entries(after.program.fallbacks ?? {})) {
      const more = count - (before.program.fallbacks?.[reason] ?? 0);
      if (more > 0) note(`${where}: ${more} × left to the hash: ${reason}`, "warn");
    }
    for (const worker of after.workers ?? []) {
      const earlier = before.workers.find(one => one.slot === worker.slot);
      if (!earlier) continue;
      if (earlier.starts < worker.starts) note(`worker ${worker.slot} started anew as process ${worker.pid}`, "warn");
      if (earlier.state !== worker.state && ["hung", "dead", "full"].includes(worker.state))
        note(`worker ${worker.slot} is ${worker.state}`, worker.state === "full" ? "warn" : "bad");
      else if (earlier.state === "hung" && worker.state === "ready")
        note(`worker ${worker.slot} is ready again`, "good");
    }
  }

  /** The length of the time axis: what is known, within bounds. */
  function span_ms(moments) {
    return Math.max(SPAN_MIN_MS, Math.min(SPAN_MS, moments.at(-1).at_ms - moments[0].at_ms));
  }

  return { take, groups, events, span_ms, newest: () => newest };
})();
