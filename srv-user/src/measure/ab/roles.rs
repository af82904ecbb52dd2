//! Which arm of a comparison is which: the subject, its control and its rivals.

use crate::measure::result::{ArmResult, ArmRole, Compared, Figure, Pair};

/// The arm that the others are compared with.
pub(super) fn subject(arms: &[ArmResult]) -> Option<&ArmResult> {
    arms.iter().find(|arm| !arm.rounds.is_empty())
}

/// All but the subject.
pub(super) fn others<'a>(
    arms: &'a [ArmResult],
    subject: &'a ArmResult,
) -> impl Iterator<Item = &'a ArmResult> + Clone {
    arms.iter()
        .filter(|arm| (&arm.name, arm.role) != (&subject.name, subject.role))
}

/// Whether `arm` is the subject once more.
pub(super) fn is_control(subject: &ArmResult, arm: &ArmResult) -> bool {
    arm.role == ArmRole::Control && arm.name == subject.name
}

/// The arms that ran beside the subject, without its control.
pub(super) fn rivals<'a>(
    arms: &'a [ArmResult],
    subject: &'a ArmResult,
) -> impl Iterator<Item = &'a ArmResult> + Clone {
    others(arms, subject).filter(|arm| !is_control(subject, arm) && !arm.rounds.is_empty())
}

/// The kernel's hash, or else the first that is neither the subject nor its control.
pub(super) fn rival<'a>(arms: &'a [ArmResult], subject: &'a ArmResult) -> Option<&'a ArmResult> {
    let mut rivals = rivals(arms, subject);
    let first = rivals.clone().next();
    rivals.find(|arm| arm.name == "hash").or(first)
}

/// The subject's figure over the single-queue bound's.
pub(super) fn to_bound<'a>(
    ratios: &'a [Compared],
    figure: Figure,
    subject: &ArmResult,
) -> Option<&'a Compared> {
    find(ratios, figure, &Pair::Bound(subject.name.clone()))
}

/// A rival's figure over the subject's.
pub(super) fn to_subject<'a>(
    ratios: &'a [Compared],
    figure: Figure,
    rival: &ArmResult,
    subject: &ArmResult,
) -> Option<&'a Compared> {
    let (arm, base) = (rival.name.clone(), subject.name.clone());
    find(ratios, figure, &Pair::Arms { arm, base })
}

/// The control's figure over that of the arm that it repeats.
pub(super) fn control(ratios: &[Compared], figure: Figure) -> Option<&Compared> {
    let mut ratios = ratios.iter();
    ratios.find(|ratio| ratio.figure == figure && ratio.pair.is_control())
}

fn find<'a>(ratios: &'a [Compared], figure: Figure, pair: &Pair) -> Option<&'a Compared> {
    let mut ratios = ratios.iter();
    ratios.find(|ratio| ratio.figure == figure && ratio.pair == *pair)
}
