//! The menus over the figures: help, and the choice of a policy, which is confirmed before srv asks
//! for it. Pure; what a confirmed choice does is known to the caller.

use super::sources::Source;
use super::view::View;
use crate::values::policies;

/// What lies over the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Menu {
    /// Nothing.
    None,
    /// The keys.
    Help,
    /// The policies that the server can have, and which of them is marked.
    Policies(Target, Vec<&'static str>, usize),
    /// The policy that was chosen and not confirmed yet.
    Confirm(Target, &'static str),
}

/// The server whose policy is to be switched. The selection may move while the menu is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where it answers.
    pub(super) source: Source,
    /// How it is named on the screen.
    pub(super) name: String,
    /// The policy that it had when the menu was opened.
    pub(super) policy: String,
}

impl Menu {
    /// The policies of the server of a group, with its present one marked.
    pub(super) fn policies(source: &Source, view: &View) -> Self {
        let names = match view.is_attached {
            true => policies::of_attached(),
            false => policies::all(),
        };
        let marked = names.iter().position(|name| *name == view.policy);
        let target = Target {
            source: source.clone(),
            name: format!("{} ({})", view.listen, view.server),
            policy: view.policy.clone(),
        };
        Self::Policies(target, names, marked.unwrap_or(0))
    }

    /// Marks the policy that is `by` further down.
    pub(super) fn mark(&mut self, by: isize) {
        if let Self::Policies(_, names, marked) = self {
            let last = names.len().saturating_sub(1);
            *marked = marked.saturating_add_signed(by).min(last);
        }
    }

    /// Chooses the marked policy.
    pub(super) fn choose(&mut self) {
        if let Self::Policies(target, names, marked) = self
            && let Some(name) = names.get(*marked)
        {
            *self = Self::Confirm(target.clone(), name);
        }
    }
}
