//! What a page of Markdown contains that can be checked: its links, the anchors that others
//! can link to, and the words that are set as code. Knows no file but the page.

use std::collections::{BTreeMap, BTreeSet};

/// One page.
#[derive(Default)]
pub(super) struct Page {
    pub links: Vec<Placed>,
    pub anchors: BTreeSet<String>,
    /// The pieces of text between back-ticks.
    pub code: Vec<Placed>,
}

/// A text and its line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub line: usize,
    pub text: String,
}

impl Page {
    /// Reads a page.
    pub(super) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let prose = without_fences(text);
        let prose = page.take_code(&prose);
        for (index, line) in prose.lines().enumerate() {
            page.add_links(index + 1, line);
        }
        page.add_anchors(text);
        page
    }

    /// Gives the text with blanks in the place of inline code, which may go over lines.
    fn take_code(&mut self, text: &str) -> String {
        let mut prose = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('`') {
            let ticks = rest[at..].bytes().take_while(|byte| *byte == b'`').count();
            let (before, after) = (&rest[..at], &rest[at + ticks..]);
            prose += before;
            let Some(length) = closing(after, ticks) else {
                // Ticks that nothing closes are text.
                prose += &rest[at..at + ticks];
                rest = after;
                continue;
            };
            let code = &after[..length];
            self.code.push(Placed {
                line: prose.matches('\n').count() + 1,
                text: code.to_owned(),
            });
            prose.extend(code.chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &after[length + ticks..];
        }
        prose + rest
    }

    fn add_links(&mut self, line: usize, text: &str) {
        let mut add = |target: &str| {
            self.links.push(Placed {
                line,
                text: target.trim_matches(['<', '>']).to_owned(),
            });
        };
        for (begin, end) in [("](", ')'), ("href=\"", '"'), ("src=\"", '"')] {
            for behind in text.split(begin).skip(1) {
                let target = behind.split(end).next().unwrap_or_default();
                // A title may follow.
                add(target.split_whitespace().next().unwrap_or_default());
            }
        }
        // `[label]: target`
        if let Some((label, target)) = text.trim_start().split_once("]: ")
            && label.starts_with('[')
        {
            add(target.split_whitespace().next().unwrap_or_default());
        }
    }

    fn add_anchors(&mut self, text: &str) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for line in without_fences(text).lines() {
            if let Some(heading) = heading(line) {
                let slug = slug(heading);
                let times = seen.entry(slug.clone()).or_default();
                self.anchors.insert(match *times {
                    0 => slug,
                    times => format!("{slug}-{times}"),
                });
                *times += 1;
            }
            for begin in ["id=\"", "name=\""] {
                let named = line.split(begin).skip(1);
                self.anchors
                    .extend(named.filter_map(|it| Some(it.split_once('"')?.0.to_owned())));
            }
        }
    }
}

/// The text with empty lines in the place of blocks of code.
fn without_fences(text: &str) -> String {
    let mut fence: Option<&str> = None;
    let mut kept = String::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        match fence {
            Some(end) if trimmed.starts_with(end) => fence = None,
            Some(_) => {}
            None => {
                fence = ["```", "~~~"]
                    .into_iter()
                    .find(|it| trimmed.starts_with(it));
                if fence.is_none() {
                    kept += line;
                }
            }
        }
        kept.push('\n');
    }
    kept
}

/// Where exactly `ticks` back-ticks close a piece of code, in the same paragraph.
fn closing(text: &str, ticks: usize) -> Option<usize> {
    let paragraph = text.split("\n\n").next()?;
    let mut from = 0;
    while let Some(at) = paragraph[from..].find('`').map(|at| from + at) {
        let run = paragraph[at..].bytes().take_while(|it| *it == b'`').count();
        if run == ticks {
            return Some(at);
        }
        from = at + run;
    }
    None
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    (1..=6)
        .contains(&level)
        .then(|| text.strip_prefix(' '))
        .flatten()
}

/// A heading's anchor, as GitHub makes it.
fn slug(heading: &str) -> String {
    // Of a link in it, the target is not shown.
    let mut shown = String::new();
    let mut parts = heading.trim().split("](");
    shown += parts.next().unwrap_or_default();
    for part in parts {
        shown += part.split_once(')').map_or(part, |(_, behind)| behind);
    }
    shown
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(placed: &[Placed]) -> Vec<(usize, &str)> {
        placed.iter().map(|it| (it.line, &*it.text)).collect()
    }

    #[test]
    fn links_of_each_kind_are_found_and_none_in_code() {
        let page = Page::parse(
            "[a](a.md) ![b](b.png \"title\")\n[`c`\n](c.md#d) `[no](no.md)`
```sh\n[no](no.md)\n```\n[e]: e.md\n<a href=\"f.md\"><img src=\"g.png\">\n",
        );
        assert_eq!(
            places(&page.links),
            [
                (1, "a.md"),
                (1, "b.png"),
                (3, "c.md#d"),
                (7, "e.md"),
                (8, "f.md"),
                (8, "g.png")
            ]
        );
    }

    #[test]
    fn code_may_go_over_a_line_but_not_over_a_paragraph() {
        let page = Page::parse("`a` and ``b ` c`` and `d\ne`\na ` tick\n\n`f`\n");
        assert_eq!(
            places(&page.code),
            [(1, "a"), (1, "b ` c"), (1, "d\ne"), (5, "f")]
        );
    }

    #[test]
    fn anchors_are_made_as_github_makes_them() {
        let page = Page::parse(
            "# What is *not* so\n## `srv load`, in short\n## Twice\n## Twice
### [A link](to.md) here\n```\n# no heading\n```\n#none\n<a id=\"own\"></a>\n",
        );
        assert_eq!(
            page.anchors.iter().collect::<Vec<_>>(),
            [
                "a-link-here",
                "own",
                "srv-load-in-short",
                "twice",
                "twice-1",
                "what-is-not-so"
            ]
        );
    }
}
