//! Text that fits a terminal and cannot control it: durations, byte counts, lines that are broken or shortened, control
//! characters that are made visible.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Columns that tables and lists use at most.
pub const WIDTH: usize = 100;

/// A duration with the unit that fits: `850 ns`, `24.1 us`, `3.49 ms`, `1.25 s`, `2.1 min`, `1.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => scaled(s, &[(1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1.0, "s")]),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The command line of a process, with shell quoting. The program's path becomes its name.
pub fn command_line(words: impl Iterator<Item = String>) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c))
    };
    let quoted = words
        .skip(1)
        .map(|word| if plain(&word) { word } else { format!("'{}'", word.replace('\'', r"'\''")) });
    std::iter::once("scenerank".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// An estimated duration: `40 s`, `8 min`, `1.5 h`.
pub fn rough_duration(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5970.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A count with a decimal prefix, such as `151 M`.
pub fn count(value: f64) -> String {
    scaled(value, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")])
}

/// Three digits of `value`, in the largest of the units (in ascending order) that is not above it.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // A value that rounds to 1000 of a unit takes the next unit.
    let at = units.iter().rposition(|&(size, _)| value >= 0.9995 * size).unwrap_or(0);
    let (size, name) = units[at];
    let value = value / size;
    let digits = match value {
        v if v == 0.0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {name}").trim_end().to_string()
}

/// Breaks `text` at spaces into lines of at most [`WIDTH`] columns. The first begins in column `start`; the
/// others are indented by `indent`.
pub fn wrap(text: &str, start: usize, indent: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), start);
    for word in text.split(' ') {
        let (width, first) = (word.chars().count(), wrapped.is_empty());
        if !first && column + 1 + width > WIDTH {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if !first {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += width;
    }
    wrapped
}

/// The end of `text`, with `...` before it if its beginning was left out to keep `width` columns.
pub fn shorten(text: &str, width: usize) -> String {
    let count = text.chars().count();
    match count > width {
        true => std::iter::once("...".to_string())
            .chain(text.chars().skip(count + 3 - width).map(String::from))
            .collect(),
        false => text.to_string(),
    }
}

/// The beginning of `text`, with `...` after it if its end was left out to keep `width` columns.
pub fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(3)).chain("...".chars()).collect(),
        None => text.to_string(),
    }
}

/// Beginning and end of `text`, with `...` between them if its middle was left out to keep `width` columns.
pub fn cut_middle(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_string();
    }
    let kept = width.saturating_sub(3);
    let (head, tail) = (kept - kept / 2, kept / 2);
    text.chars().take(head).chain("...".chars()).chain(text.chars().skip(count - tail)).collect()
}

/// Longest excerpt of an input in a message.
const EXCERPT: usize = 40;

/// A string from an input as it is shown in a message: on one line, without control characters, of 40 columns at most.
pub fn excerpt(text: &str) -> String {
    // Only the beginning is made visible: the text may be large.
    let start: String = text.chars().take(EXCERPT + 1).collect();
    cut(&visible(&start), EXCERPT)
}

/// Whether a terminal acts on a character instead of showing it: controls, separators of lines, and marks that reverse the
/// direction of the text around them.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, escape: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escape) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !escape(c) => visible.push(c),
            '\n' => visible.push_str("\\n"),
            '\r' => visible.push_str("\\r"),
            '\t' => visible.push_str("\\t"),
            c => write!(visible, "\\u{:04x}", u32::from(c)).expect("a string takes any text"),
        }
    }
    Cow::Owned(visible)
}

/// `text` on one line, with its control characters as JSON spells them, such as `\u001b`.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// Like [`visible`], for output of several lines: line breaks and tabs stay. JSON stays the same JSON.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\n' | '\t') && is_control(c))
}

#[cfg(test)]
mod tests {
    use super::{count, cut, cut_middle, duration, excerpt, shorten, visible, visible_lines, wrap};

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        let text = "a\u{1b}[31m\u{7}\r\n\u{9b}2J\u{202e}é男\u{7f}";
        let shown = r"a\u001b[31m\u0007\r\n\u009b2J\u202eé男\u007f";
        assert_eq!(visible(text), shown);
        assert_eq!(visible_lines("a\n\tb\r"), "a\n\tb\\r");
        // The same value is read from JSON.
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::from_str::<String>(&visible_lines(&json)).unwrap(), text);
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"\u{1b}".repeat(100_000)).chars().count(), 40);
    }

    #[test]
    fn text_is_cut_at_the_end_or_in_the_middle() {
        assert_eq!([cut("abcdefgh", 8), cut("abcdefghi", 8)], ["abcdefgh", "abcde..."]);
        assert_eq!([cut_middle("abcdefgh", 8), cut_middle("abcdefghi", 8)], ["abcdefgh", "abc...hi"]);
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        for (seconds, text) in [
            (0.0, "0 ns"),
            (8.5e-7, "850 ns"),
            (2.4149e-5, "24.1 us"),
            (3.4886e-3, "3.49 ms"),
            (0.2430, "243 ms"),
            (0.99949, "999 ms"),
            (0.9996, "1.00 s"),
            (9.996, "10.0 s"),
            (59.9, "59.9 s"),
            (126.0, "2.1 min"),
            (5400.0, "1.5 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!([count(0.0), count(840.0), count(1.51e8)], ["0", "840", "151 M"]);
    }

    #[test]
    fn long_text_is_broken_or_shortened() {
        let text = ["nine char"; 12].join(" ");
        let wrapped = wrap(&text, 28, 28);
        assert_eq!(wrapped.split_whitespace().collect::<Vec<_>>(), text.split(' ').collect::<Vec<_>>());
        assert!(wrapped.lines().zip([72, 100]).all(|(line, most)| line.chars().count() <= most), "{wrapped}");
        assert_eq!([shorten("abcdefgh", 8), shorten("abcdefghi", 8)], ["abcdefgh", "...efghi"]);
    }
}
