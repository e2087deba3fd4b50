//! Words of captions and names, in the form used by the word vectors.

use std::sync::LazyLock;

use icu_segmenter::options::WordBreakInvariantOptions;
use icu_segmenter::{WordSegmenter, WordSegmenterBorrowed};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Key of the tokeniser among the options in the metadata of a data file.
pub(super) const TOKENISER: &str = "tokeniser";

/// Finds the boundaries of words by the rules of Unicode (UAX 29), and by dictionaries in scripts without spaces between words.
static SEGMENTER: LazyLock<WordSegmenterBorrowed<'static>> =
    LazyLock::new(|| WordSegmenter::new_dictionary(WordBreakInvariantOptions::default()));

/// How a text is divided into words. Both give the same words of a text in ASCII.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tokeniser {
    /// Words of any script, in lower case and composed form (NFC). Scripts without spaces, such as Japanese, are divided by a
    /// dictionary.
    #[default]
    Unicode,
    /// Runs of ASCII letters and digits, in lower case. Any other character ends a word. Data files of older versions have these
    /// words.
    Ascii,
}

impl Tokeniser {
    /// Words of `text`, in order.
    pub fn words(self, text: &str) -> Vec<String> {
        match self {
            Tokeniser::Unicode if !text.is_ascii() => unicode_words(text),
            Tokeniser::Unicode | Tokeniser::Ascii => ascii_words(text),
        }
    }
}

fn ascii_words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect()
}

fn unicode_words(text: &str) -> Vec<String> {
    let text: String = text.nfc().collect();
    let mut words = Vec::new();
    let mut start = 0;
    for end in SEGMENTER.segment_str(&text) {
        // Unicode keeps "man's" and "3.5" together; the word vectors have their parts. The segmenter's own kinds miss words that
        // end in a combining mark.
        let parts = text[start..end].split(joins_words);
        words.extend(parts.filter(|part| part.contains(char::is_alphanumeric)).map(str::to_lowercase));
        start = end;
    }
    words
}

/// Punctuation that Unicode accepts within a word.
fn joins_words(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(
            c,
            '\u{b7}'
                | '\u{387}'
                | '\u{55f}'
                | '\u{5f4}'
                | '\u{2018}'
                | '\u{2019}'
                | '\u{2024}'
                | '\u{2027}'
                | '\u{203f}'
                | '\u{2040}'
                | '\u{2044}'
                | '\u{2054}'
                | '\u{fe10}'
                | '\u{fe13}'
                | '\u{fe14}'
                | '\u{fe33}'
                | '\u{fe34}'
                | '\u{fe4d}'
                ..='\u{fe50}'
                    | '\u{fe52}'
                    | '\u{fe54}'
                    | '\u{fe55}'
                    | '\u{ff07}'
                    | '\u{ff0c}'
                    | '\u{ff0e}'
                    | '\u{ff1a}'
                    | '\u{ff1b}'
                    | '\u{ff3f}'
        )
}

/// A word of a file of vectors, in the form of [`Tokeniser::words`].
pub(super) fn composed(word: &str) -> String {
    match word.is_ascii() {
        true => word.to_string(),
        false => word.nfc().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_script() {
        for (text, words) in [
            ("A café, at NIGHT.", &["a", "café", "at", "night"][..]),
            // The accent as a character of its own.
            ("cafe\u{301}s", &["cafés"]),
            ("A man’s naïve T-shirt: 3.5 €", &["a", "man", "s", "naïve", "t", "shirt", "3", "5"]),
            ("男性 馬 木", &["男性", "馬", "木"]),
            ("男性が馬に乗っている。", &["男性", "が", "馬", "に", "乗", "って", "いる"]),
            ("ソファーの上の犬", &["ソファー", "の", "上の", "犬"]),
            ("一个男人骑着马", &["一个", "男人", "骑", "着", "马"]),
            ("Ένας ΣΚΎΛΟΣ", &["ένας", "σκύλος"]),
            ("कुत्ता और आदमी", &["कुत्ता", "और", "आदमी"]),
            // A letter that has no composed form with its mark.
            ("x\u{30c} horse", &["x\u{30c}", "horse"]),
            ("ชายคนหนึ่งขี่ม้า", &["ชาย", "คน", "หนึ่ง", "ขี่", "ม้า"]),
            ("🐶 … !", &[]),
        ] {
            assert_eq!(Tokeniser::Unicode.words(text), words, "{text}");
        }
        assert_eq!(Tokeniser::Ascii.words("A café, 馬"), ["a", "caf"]);
        assert_eq!(composed("cafe\u{301}"), "café");
    }

    #[test]
    fn words_in_ascii_are_the_same() {
        // The character behind the text leads the same text to the rules of Unicode.
        let text: String = (1..128u8).map(char::from).collect::<String>().repeat(2);
        let text = format!("{text} A man's dog, 3.5 m from x_y-z: e.g. a@b.org AND it's 1,000 #1!");
        assert_eq!(unicode_words(&format!("{text} …")), ascii_words(&text));
    }
}
