//! Circles of imports between sibling modules, at each level of a crate's modules. A module
//! stands for all within. What a module imports of those above and of those within it makes
//! no circle: they are one subject.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Finding, modules::Crate};

/// What siblings import of one another: for each pair, the places.
type Arrows<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<(&'a str, usize)>>;

/// The circles of a crate. Each arrow that lies on one is in at least one finding, in its
/// shortest circle.
pub(super) fn check(krate: &Crate<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (level, arrows) in &levels(krate) {
        let circles: BTreeSet<_> = arrows
            .keys()
            .filter_map(|arrow| circle(arrows, *arrow))
            .collect();
        for circle in &circles {
            findings.push(finding(&krate.root, level, arrows, circle));
        }
    }
    findings
}

/// The arrows, by the path of the module whose children they join.
fn levels<'a>(krate: &'a Crate<'_>) -> BTreeMap<&'a [String], Arrows<'a>> {
    let mut levels: BTreeMap<_, Arrows<'_>> = BTreeMap::new();
    for (from, module) in krate.modules.iter().enumerate() {
        for import in &module.imports {
            let Some(target) = krate.target(from, import) else {
                continue;
            };
            let (from, to) = (&module.path, &krate.modules[target].path);
            let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
                let arrows = levels.entry(&from[..shared]).or_default();
                let places = arrows.entry((a.as_str(), b.as_str())).or_default();
                places.insert((module.file, import.line));
            }
        }
    }
    levels
}

/// The shortest circle that begins with an arrow, turned so that its least name is the
/// first.
fn circle<'a>(arrows: &Arrows<'a>, (from, to): (&'a str, &'a str)) -> Option<Vec<&'a str>> {
    // The module by which each was reached first.
    let mut reached_by = BTreeMap::from([(to, from)]);
    let mut next = VecDeque::from([to]);
    while let Some(module) = next.pop_front() {
        if module == from {
            break;
        }
        for &(_, further) in arrows.keys().filter(|(tail, _)| *tail == module) {
            reached_by.entry(further).or_insert_with(|| {
                next.push_back(further);
                module
            });
        }
    }
    let mut circle = vec![from];
    let mut module = *reached_by.get(from)?;
    while module != from {
        circle.push(module);
        module = *reached_by.get(module)?;
    }
    circle.reverse();
    let least = (0..circle.len()).min_by_key(|at| circle[*at])?;
    circle.rotate_left(least);
    Some(circle)
}

fn finding(root: &str, level: &[String], arrows: &Arrows<'_>, circle: &[&str]) -> Finding {
    let mut text = format!("circle in {root}");
    if !level.is_empty() {
        text += &format!(", {}", level.join("::"));
    }
    text += &format!(": {}", circle[0]);
    let mut first = None;
    for (at, from) in circle.iter().enumerate() {
        let to = circle[(at + 1) % circle.len()];
        let places = &arrows[&(*from, to)];
        if let Some((file, line)) = places.first() {
            first = first.or(Some((*file, *line)));
            text += &format!(" -> {to} ({file}:{line}");
        }
        if places.len() > 1 {
            text += &format!(" and {} more", places.len() - 1);
        }
        text += ")";
    }
    let (file, line) = first.unwrap_or((root, 1));
    Finding::new(file, line, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{source::Sources, tree};

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let small = tree::small(files);
        let (sources, _) = Sources::parse(&small.tree).expect("read the files");
        let (krate, _) = Crate::load(&sources, "c/src/lib.rs");
        check(&krate).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_of_two_is_found_with_the_place_of_each_arrow() {
        let circles = circles(&[
            ("c/src/lib.rs", "mod a;\nmod b;\n"),
            ("c/src/a.rs", "\nuse crate::b::B;\nuse crate::b::C;\n"),
            ("c/src/b.rs", "mod deep;"),
            ("c/src/b/deep.rs", "\n\nfn f() { super::super::a::f() }\n"),
        ]);
        assert_eq!(
            circles,
            [
                "c/src/a.rs:2: circle in c/src/lib.rs: a -> b (c/src/a.rs:2 and 1 more) \
              -> a (c/src/b/deep.rs:3)"
            ]
        );
    }

    #[test]
    fn a_circle_of_three_below_the_root_is_found_once() {
        let circles = circles(&[
            ("c/src/lib.rs", "mod top;"),
            ("c/src/top.rs", "mod c;\nmod a;\nmod b;\nmod away;\n"),
            ("c/src/top/a.rs", "use super::b;"),
            ("c/src/top/b.rs", "use crate::top::{away, c::C};"),
            ("c/src/top/c.rs", "\nsay! { crate::top::a::A }"),
            ("c/src/top/away.rs", ""),
        ]);
        assert_eq!(
            circles,
            [
                "c/src/top/a.rs:1: circle in c/src/lib.rs, top: a -> b (c/src/top/a.rs:1) \
              -> c (c/src/top/b.rs:1) -> a (c/src/top/c.rs:2)"
            ]
        );
    }

    #[test]
    fn every_arrow_of_entangled_circles_is_shown() {
        let circles = circles(&[
            ("c/src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("c/src/a.rs", "use crate::b::B; use crate::c::C;"),
            ("c/src/b.rs", "use crate::a::A; use crate::c::C;"),
            ("c/src/c.rs", "use crate::a::A;"),
        ]);
        let starts = circles.iter().map(|it| it.split(" (").count());
        assert_eq!(starts.collect::<Vec<_>>(), [3, 4, 3], "{circles:#?}");
    }

    #[test]
    fn a_re_export_of_the_parents_hides_no_circle() {
        let circles = circles(&[
            ("c/src/lib.rs", "mod a;\nmod b;\npub use b::B;\n"),
            ("c/src/a.rs", "use crate::B;"),
            ("c/src/b.rs", "use crate::a::A;"),
        ]);
        assert_eq!(circles.len(), 1, "{circles:#?}");
    }

    #[test]
    fn parents_children_and_tests_make_no_circle() {
        let circles = circles(&[
            ("c/src/lib.rs", "mod a;\nmod b;\n"),
            (
                "c/src/a.rs",
                "pub mod x;\nuse x::X;\nuse self::x::Y;\npub struct A;\n",
            ),
            (
                "c/src/a/x.rs",
                "use super::A;\nuse crate::a::x::Z;\nuse crate::b::B;\n",
            ),
            (
                "c/src/b.rs",
                "#[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)]\nuse crate::a::A;\n",
            ),
        ]);
        assert_eq!(circles, [""; 0]);
    }
}
