//! Tables for a terminal: each column is as wide as its widest cell, and columns stand two
//! spaces apart. Knows nothing of what is in them.

use std::fmt::Write as _;

/// A line for the header and one for each row. The columns that `left` names hold words,
/// which begin below one another. The others hold numbers, which end below one another.
pub fn table(
    header: &[&str],
    left: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let is_left: Vec<bool> = header
        .iter()
        .map(|name| left.contains(&name.as_str()))
        .collect();
    let lines: Vec<Vec<String>> = [header].into_iter().chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..is_left.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for ((cell, width), is_left) in line.iter().zip(&widths).zip(&is_left) {
            // Writing to a string cannot fail.
            let _ = match is_left {
                true => write!(padded, "{cell:<width$}  "),
                false => write!(padded, "{cell:>width$}  "),
            };
        }
        text += padded.trim_end();
        text += "\n";
    }
    text
}

/// Prints a table whose first column holds words, indented by two spaces.
pub fn print(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let left = header.get(..1).unwrap_or_default();
    for line in table(header, left, rows).lines() {
        crate::println!("  {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_and_numbers_end_below_one_another() {
        let cells = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [cells(["hash", "1", "a"]), cells(["p2c", "µ22", ""])];
        assert_eq!(
            table(&["arm", "n", "why"], &["arm", "why"], rows),
            "arm     n  why\nhash    1  a\np2c   µ22\n"
        );
        assert_eq!(table(&["arm"], &[], []), "arm\n");
    }

    #[test]
    fn a_row_may_be_short() {
        let rows = [vec!["bound".to_owned()]];
        assert_eq!(table(&["arm", "n"], &["arm"], rows), "arm    n\nbound\n");
    }
}
