//! Which arm of a comparison is which: the subject, its control and its rivals.

use crate::measure::result::{Arm, Compared};

/// The arm that the others are compared with.
pub(super) fn subject(arms: &[Arm]) -> Option<&Arm> {
    arms.iter().find(|arm| !arm.rounds.is_empty())
}

/// All but the subject.
pub(super) fn others<'a>(
    arms: &'a [Arm],
    subject: &'a Arm,
) -> impl Iterator<Item = &'a Arm> + Clone {
    arms.iter().filter(|arm| arm.name != subject.name)
}

/// Whether `arm` is the subject once more.
pub(super) fn is_control(subject: &Arm, arm: &Arm) -> bool {
    arm.name == format!("{} again", subject.name)
}

/// The arms that ran beside the subject, without its control.
pub(super) fn rivals<'a>(
    arms: &'a [Arm],
    subject: &'a Arm,
) -> impl Iterator<Item = &'a Arm> + Clone {
    others(arms, subject).filter(|arm| !is_control(subject, arm) && !arm.rounds.is_empty())
}

/// The kernel's hash, or else the first that is neither the subject nor its control.
pub(super) fn rival<'a>(arms: &'a [Arm], subject: &'a Arm) -> Option<&'a Arm> {
    let mut rivals = rivals(arms, subject);
    let first = rivals.clone().next();
    rivals.find(|arm| arm.name == "hash").or(first)
}

/// One of the comparison's ratios.
pub(super) fn find<'a>(
    ratios: &'a [Compared],
    figure: &str,
    arm: &str,
    base: &str,
) -> Option<&'a Compared> {
    let mut ratios = ratios.iter();
    ratios.find(|ratio| ratio.figure == figure && ratio.arm == arm && ratio.base == base)
}
