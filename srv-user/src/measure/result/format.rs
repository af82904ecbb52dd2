//! How `result.json` writes what has a type in [`super`]: the names that scripts, and older
//! builds of srv, read. Knows nothing else of a comparison.

use serde::{Deserialize, Serialize};

use super::{
    ArmResult, ArmRole, CdfPoint, Doubt, FAULT, Figure, Gravity, Key, Live, Pair, Round,
    ScenarioRecord,
};
use crate::measure::stats::{Judgement, Ratio};

/// Behind the name of the arm that a control repeats.
const CONTROL: &str = " again";
/// The single-queue bound, as the base of a ratio.
const BOUND: &str = "limit";
/// [`FAULT`] in older files.
const OLDER_FAULT: &str = "mishap";
/// Before the sentence of a doubt from which follows that nothing can be concluded.
pub(super) const UNUSABLE: &str = "Unusable: ";

/// What an arm of this name and role is called in `result.json` and in the names of the
/// files beside it, where each arm has a name of its own.
pub fn name_in_file(name: &str, role: ArmRole) -> String {
    match role {
        ArmRole::Candidate => name.to_owned(),
        ArmRole::Control => format!("{name}{CONTROL}"),
    }
}

/// An [`ArmResult`].
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Arm {
    name: String,
    /// Redundant: older files have the name alone.
    #[serde(default)]
    role: ArmRole,
    about: String,
    left_out: Option<String>,
    rounds: Vec<Round>,
    cdf: Vec<CdfPoint>,
    accepts: Vec<u64>,
    live: Option<Live>,
}

impl From<Arm> for ArmResult {
    fn from(arm: Arm) -> Self {
        let (name, role) = match arm.name.strip_suffix(CONTROL) {
            Some(repeated) => (repeated.to_owned(), ArmRole::Control),
            None => (arm.name, arm.role),
        };
        Self {
            name,
            role,
            about: arm.about,
            left_out: arm.left_out,
            rounds: arm.rounds,
            cdf: arm.cdf,
            accepts: arm.accepts,
            live: arm.live,
        }
    }
}

impl From<ArmResult> for Arm {
    fn from(arm: ArmResult) -> Self {
        Self {
            name: name_in_file(&arm.name, arm.role),
            role: arm.role,
            about: arm.about,
            left_out: arm.left_out,
            rounds: arm.rounds,
            cdf: arm.cdf,
            accepts: arm.accepts,
            live: arm.live,
        }
    }
}

/// A [`ScenarioRecord`], as it is read.
#[derive(Deserialize)]
pub(super) struct Scenario {
    name: String,
    about: String,
    parameters: Vec<(String, String)>,
    workers: usize,
    #[serde(default)]
    key: Key,
}

impl From<Scenario> for ScenarioRecord {
    fn from(mut scenario: Scenario) -> Self {
        for (label, _) in &mut scenario.parameters {
            if label == OLDER_FAULT {
                FAULT.clone_into(label);
            }
        }
        Self {
            name: scenario.name,
            about: scenario.about,
            parameters: scenario.parameters,
            workers: scenario.workers,
            key: scenario.key,
        }
    }
}

/// A [`super::Compared`].
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Compared {
    figure: Figure,
    /// Numerator.
    arm: String,
    /// Denominator: an arm's name, or [`BOUND`].
    base: String,
    ratio: Ratio,
    judgement: Judgement,
    /// Whether this is the A/A control.
    control: bool,
}

impl From<Compared> for super::Compared {
    fn from(compared: Compared) -> Self {
        let Compared { arm, base, .. } = compared;
        Self {
            figure: compared.figure,
            pair: match base.as_str() {
                _ if compared.control => Pair::Control(base),
                BOUND => Pair::Bound(arm),
                _ => Pair::Arms { arm, base },
            },
            ratio: compared.ratio,
            judgement: compared.judgement,
        }
    }
}

impl From<super::Compared> for Compared {
    fn from(compared: super::Compared) -> Self {
        let control = compared.pair.is_control();
        let (arm, base) = match compared.pair {
            Pair::Arms { arm, base } => (arm, base),
            Pair::Control(arm) => (name_in_file(&arm, ArmRole::Control), arm),
            Pair::Bound(arm) => (arm, BOUND.to_owned()),
        };
        Self {
            figure: compared.figure,
            arm,
            base,
            ratio: compared.ratio,
            judgement: compared.judgement,
            control,
        }
    }
}

impl From<Figure> for String {
    fn from(figure: Figure) -> Self {
        figure.to_string()
    }
}

impl TryFrom<String> for Figure {
    type Error = strum::ParseError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<String> for Doubt {
    fn from(text: String) -> Self {
        match text.strip_prefix(UNUSABLE) {
            Some(sentence) => Self {
                gravity: Gravity::Unusable,
                sentence: sentence.to_owned(),
            },
            None => Self {
                gravity: Gravity::Caveat,
                sentence: text,
            },
        }
    }
}

impl From<Doubt> for String {
    fn from(doubt: Doubt) -> Self {
        doubt.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Comparison;
    use super::*;

    /// Written before arms had roles.
    const OLDER: &str = include_str!("../../../../tests/data/result.json");

    #[test]
    fn an_older_file_is_read_and_written_alike() {
        let comparison: Comparison = serde_json::from_str(OLDER).unwrap();
        let arms = comparison.arms.iter().map(|arm| (&*arm.name, arm.role));
        assert_eq!(
            arms.collect::<Vec<_>>(),
            [
                ("hash", ArmRole::Candidate),
                ("hash", ArmRole::Control),
                ("least", ArmRole::Candidate),
                ("least+ring", ArmRole::Candidate),
                ("nginx", ArmRole::Candidate),
            ]
        );
        assert_eq!(comparison.ratios[0].pair, Pair::Control("hash".into()));
        assert_eq!(comparison.ratios[5].pair, Pair::Bound("least+ring".into()));

        let mut written = serde_json::to_value(&comparison).unwrap();
        assert_eq!(written["arms"][1]["role"], "control");
        for arm in written["arms"].as_array_mut().unwrap() {
            arm.as_object_mut().unwrap().remove("role");
            for round in arm["rounds"].as_array_mut().unwrap() {
                for newer in ["accept_delay_p50_ns", "accept_delay_p99_ns"] {
                    let unknown = round.as_object_mut().unwrap().remove(newer);
                    assert_eq!(unknown, Some(serde_json::Value::Null));
                }
            }
        }
        let older: serde_json::Value = serde_json::from_str(OLDER).unwrap();
        assert_eq!(written, older);
    }

    #[test]
    fn a_fault_of_an_older_file_is_the_same_fault() {
        let older = r#"{"name": "hung", "about": "", "parameters": [["mishap", "one worker"]], "workers": 8}"#;
        let scenario: ScenarioRecord = serde_json::from_str(older).unwrap();
        assert_eq!(
            scenario.parameters,
            [(FAULT.to_owned(), "one worker".to_owned())]
        );
    }

    #[test]
    fn a_doubt_that_condemns_is_told_from_its_text() {
        for doubt in [
            Doubt::caveat("It was late."),
            Doubt::unusable("It differs."),
        ] {
            let json = serde_json::to_string(&doubt).unwrap();
            assert_eq!(serde_json::from_str::<Doubt>(&json).unwrap(), doubt);
        }
        let text = serde_json::to_string(&Doubt::unusable("It differs.")).unwrap();
        assert_eq!(text, "\"Unusable: It differs.\"");
    }
}
