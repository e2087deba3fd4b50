//! Text that fits a terminal: durations, byte counts, lines that are broken or shortened.

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

#[cfg(test)]
mod tests {
    use super::{count, duration, shorten, wrap};

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
