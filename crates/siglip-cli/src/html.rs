//! Reports: one HTML file each, with everything inside it, for light and dark screens.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::failure::Failure;
use crate::output::Unfinished;

const STYLE: &str = include_str!("html/style.css");

/// Text as it may stand between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A file's bytes as an address, so that they are part of the page.
pub(crate) fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

/// A row of a bar chart: a label, a bar as long as `fraction` of the whole, and what it stands for.
pub(crate) fn bar(label: &str, fraction: f64, value: &str) -> String {
    let percent = 100.0 * fraction.clamp(0.0, 1.0);
    format!(
        "<div class=\"bar\"><span class=\"label\" title=\"{label}\">{label}</span><span class=\"track\"><span \
         style=\"width:{percent:.2}%\"></span></span><span class=\"value\">{}</span></div>\n",
        escape(value),
        label = escape(label)
    )
}

/// A table. Cells are text; those of the columns from `numbers` on are numbers.
pub(crate) fn table(heads: &[&str], numbers: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut html = String::from("<div class=\"wide\"><table>\n");
    let mut row = |cells: &mut dyn Iterator<Item = &str>, tag: &str| {
        html.push_str("<tr>");
        for (column, cell) in cells.enumerate() {
            let class = if column < numbers { "" } else { " class=\"number\"" };
            let _ = write!(html, "<{tag}{class}>{}</{tag}>", escape(cell));
        }
        html.push_str("</tr>\n");
    };
    row(&mut heads.iter().copied(), "th");
    for cells in rows {
        row(&mut cells.iter().map(String::as_str), "td");
    }
    html + "</table></div>\n"
}

/// Writes a page of HTML to a file, which appears only when it is whole.
pub(crate) fn write_page(path: &Path, title: &str, body: &str) -> Result<(), Failure> {
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\
         <footer>Made by siglip {}.</footer>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        title = escape(title)
    );
    let write = || {
        let file = Unfinished::beside(path)?;
        let mut writer = file.writer()?;
        writer.write_all(page.as_bytes())?;
        writer.flush()?;
        file.finish()
    };
    write().map_err(|error| Failure::Write { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_text_becomes_markup() {
        let bad = "<script>\"'&</script>";
        let good = "&lt;script&gt;&quot;&#39;&amp;&lt;/script&gt;";
        assert_eq!(escape(bad), good);
        let html = bar(bad, 2.0, bad) + &table(&[bad], 1, [vec![bad.to_owned()]]);
        assert!(!html.contains("<script") && html.matches(good).count() == 5, "{html}");
        assert!(html.contains("width:100.00%"));
    }
}
