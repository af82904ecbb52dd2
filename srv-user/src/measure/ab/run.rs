//! The rounds of a comparison: each arm in each round, in an order that favours none, then
//! again what the hypervisor disturbed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};

use super::arm::Arm;
use super::files::Folder;
use super::measure::{self, Measured, Plan, live, measure};
use super::overhead::Overhead;
use super::scenario::Scenario;
use super::{Options, blank, blank_arm, judge, single_queue, table};
use crate::measure::arrivals::Service;
use crate::measure::baseline::others;
use crate::measure::delay_line::DelayLine;
use crate::measure::distribution::{Sorted, over_rounds};
use crate::measure::environment::Environment;
use crate::measure::load::Record;
use crate::measure::result::{ArmResult, Comparison, Round};

/// What a request costs, by the arm's name, whether its handler burns CPU, and whether it
/// does nothing.
pub(super) type Overheads = BTreeMap<(String, bool, bool), Overhead>;

/// A run in progress.
pub(super) struct Run<'a> {
    options: &'a Options,
    scenario: &'a Scenario,
    arms: Vec<Arm>,
    interrupted: &'a AtomicBool,
    comparison: Comparison,
    /// By arm and round: the short requests' latencies.
    short_ns: Vec<Vec<Vec<u64>>>,
    plans: Vec<Plan>,
    overhead: Overhead,
    /// Those that are known from earlier scenarios.
    overheads: &'a mut Overheads,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        options: &'a Options,
        scenario: &'a Scenario,
        arms: &'a [Arm],
        interrupted: &'a AtomicBool,
        overheads: &'a mut Overheads,
    ) -> Self {
        let mut arms = arms.to_vec();
        // The first that can run is compared with the others, and is the control.
        if let Some(first) = arms.iter().find(|arm| arm.obstacle(scenario).is_none()) {
            arms.insert(arms.len() / 2 + 1, first.as_control());
        }
        let blank_arms = arms.iter().map(|arm| ArmResult {
            left_out: arm.obstacle(scenario),
            ..blank_arm(arm, arm.about(), scenario)
        });
        let environment = Environment::read().labelled();
        let comparison = blank(options, scenario, blank_arms.collect(), environment);
        Self {
            options,
            scenario,
            short_ns: vec![Vec::new(); arms.len()],
            arms,
            interrupted,
            comparison,
            plans: Vec::new(),
            overhead: Overhead::default(),
            overheads,
        }
    }

    /// Runs every round of every arm; what ends it early is noted in the result.
    pub(super) fn complete(mut self, folder: &Folder) -> Result<Comparison> {
        table::announce(&self.comparison);
        let able = self.comparison.arms.iter();
        ensure!(
            able.filter(|arm| arm.left_out.is_none()).count() > 0,
            "scenario {}: no arm can run here",
            self.scenario.name
        );
        let watch = others::Watch::begin()?;
        if let Err(error) = self.rounds(folder) {
            self.comparison.incomplete = Some(format!("{error:#}"));
        }
        self.comparison.others = Some(watch.end()?);
        self.sum_up();
        Ok(self.comparison)
    }

    fn rounds(&mut self, folder: &Folder) -> Result<()> {
        let path = match self.scenario.rtt {
            Some(rtt) => Some(DelayLine::new(rtt)?),
            None => None,
        };
        let able = |nth: &usize| self.comparison.arms[*nth].left_out.is_none();
        if let Some(nth) = (0..self.arms.len()).find(able) {
            self.overhead = self.overhead_of(nth)?;
        }
        for round in 0..self.options.rounds {
            let plan = Plan::of(self.scenario, self.options.seed + round as u64);
            self.plans.push(plan);
            // Each round begins with another arm, so that none always follows
            // the same other one.
            for step in 0..self.arms.len() {
                let nth = (round + step) % self.arms.len();
                if self.comparison.arms[nth].left_out.is_none() {
                    self.one(nth, round, path.as_ref(), folder)?;
                }
            }
        }
        // After all others: a hypervisor takes CPU time for seconds or minutes on end.
        for _ in 0..self.options.repeats {
            for (nth, round) in self.disturbed() {
                self.one(nth, round, path.as_ref(), folder)?;
            }
        }
        Ok(())
    }

    /// Arm and round of each run that the hypervisor disturbed. That is decided by the CPU
    /// time that it took, not by the outcome: no arm can gain by a repeat.
    fn disturbed(&self) -> Vec<(usize, usize)> {
        let arms = self.comparison.arms.iter().enumerate();
        arms.flat_map(|(nth, arm)| {
            let rounds = arm.rounds.iter().enumerate();
            let disturbed = rounds.filter(|(_, figures)| figures.is_disturbed());
            disturbed.map(move |(round, _)| (nth, round))
        })
        .collect()
    }

    fn overhead_of(&mut self, nth: usize) -> Result<Overhead> {
        let arm = &self.arms[nth];
        let does_nothing = self.scenario.service == Service::Fixed(0);
        let key = (arm.name.clone(), self.scenario.spins, does_nothing);
        if let Some(known) = self.overheads.get(&key) {
            return Ok(*known);
        }
        println!(
            "  measuring what a request costs beyond its service time (for the single-queue bound)"
        );
        let overhead = Overhead::measure(arm, self.scenario)?;
        self.overheads.insert(key, overhead);
        Ok(overhead)
    }

    fn one(
        &mut self,
        nth: usize,
        round: usize,
        path: Option<&DelayLine>,
        folder: &Folder,
    ) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("it was interrupted");
        }
        let arm = &self.arms[nth];
        let measured = measure(arm, self.scenario, &self.plans[round], path);
        if self.interrupted.load(Ordering::Relaxed) {
            // The servers were interrupted by the same key.
            bail!("it was interrupted");
        }
        let Measured {
            round: mut figures,
            run,
        } = measured?;
        println!(
            "  round {} of {}, {}: {} {:.2} ms, {} requests, {:.1} % of the CPUs taken by the hypervisor{}",
            round + 1,
            self.options.rounds,
            arm.label(),
            self.scenario.key.figure(),
            self.scenario.key.of(&figures) / 1e6,
            figures.requests,
            figures.hypervisor_share * 100.0,
            run.first_error
                .as_ref()
                .map_or_else(String::new, |error| format!(", first error: {error}")),
        );
        folder.write_samples(arm, round, &run)?;
        let is_short = |record: &&Record| self.scenario.service.is_short(record.service_us);
        let judged = measure::judged(self.scenario, &run.records);
        let short = judged.iter().filter(is_short).map(Record::latency_ns);
        let short = short.collect();
        let out = &mut self.comparison.arms[nth];
        if round == 0 {
            out.live = live(&run.records, self.scenario.workers);
        }
        match out.rounds.get_mut(round) {
            None => {
                out.rounds.push(figures);
                self.short_ns[nth].push(short);
            }
            Some(before) => {
                figures.repeats = before.repeats + 1;
                *before = figures;
                self.short_ns[nth][round] = short;
            }
        }
        Ok(())
    }

    fn sum_up(&mut self) {
        for (arm, short_ns) in self.comparison.arms.iter_mut().zip(&mut self.short_ns) {
            let short = std::mem::take(short_ns).into_iter().map(Sorted::new);
            let short: Vec<Sorted> = short.collect();
            let all_disturbed = arm.rounds.iter().all(Round::is_disturbed);
            let judged = arm.rounds.iter().zip(&short);
            arm.cdf = over_rounds(judged.filter_map(|(round, short)| {
                (all_disturbed || !round.is_disturbed()).then_some(short)
            }));
            for round in &arm.rounds {
                for (sum, accepts) in arm.accepts.iter_mut().zip(&round.accepts) {
                    *sum += accepts;
                }
            }
        }
        if !self.plans.is_empty() {
            self.comparison.bound = Some(single_queue::replay(
                self.scenario,
                &self.plans,
                self.overhead,
            ));
        }
        judge::judge(&mut self.comparison);
    }
}
