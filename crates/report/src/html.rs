//! Reports as one HTML file: no script, nothing fetched, light or dark as the reader's system is, fit for print.
//!
//! A [`Page`] is filled from top to bottom: verdict first, then the headline figures, then sections of charts and
//! tables. All text is escaped.

use crate::{
    Assessment, BarChart, CurveChart, HeatChart, LineChart, Severity, Verdict,
    chart::{Draw, Drawing, escape},
};

const STYLE: &str =
    concat!(include_str!("palette.css"), include_str!("chart/chart.css"), include_str!("html.css"));
/// Tables with so few columns do not take the whole width: the eye would lose the line.
const NARROW_COLUMNS: usize = 3;

/// A report under construction.
#[derive(Clone, Debug, Default)]
pub struct Page {
    title: String,
    subtitle: String,
    verdicts: String,
    tiles: String,
    body: String,
    /// A grid of charts is open at the end of the body.
    grid: bool,
    footer: String,
}

/// A table of texts; the first column names the rows.
#[derive(Clone, Debug, Default)]
pub struct TextTable {
    caption: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

// === impl Page ===

impl Page {
    /// An empty page.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// A line under the title: what was run, where, when.
    #[must_use]
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// What may be said about the run called `run` (empty if there is only one), in the box at the top.
    #[must_use]
    pub fn verdict(mut self, run: &str, assessment: &Assessment) -> Self {
        let class = match assessment.verdict {
            Verdict::Valid => "valid",
            Verdict::Suspect => "suspect",
            Verdict::Invalid => "invalid",
        };
        let reasons: String = assessment
            .warnings
            .iter()
            .map(|warning| {
                let class = match warning.severity() {
                    Severity::Note => "note",
                    Severity::Suspect => "suspect",
                    Severity::Invalid => "invalid",
                };
                format!("<li class=\"{class}\">{}</li>", escape(&warning.to_string()))
            })
            .collect();
        let none = "<p>The client kept up, no request failed, and there are enough samples.</p>".to_owned();
        let reasons = if reasons.is_empty() { none } else { format!("<ul>{reasons}</ul>") };
        let run = if run.is_empty() { String::new() } else { format!("<span>{}</span>", escape(run)) };
        self.verdicts += &format!(
            "<div class=\"verdict {class}\"><h2><b>{}</b>{run}</h2>{reasons}</div>\n",
            assessment.verdict
        );
        self
    }

    /// A headline figure: a large value and what it is.
    #[must_use]
    pub fn headline(mut self, value: impl AsRef<str>, label: impl AsRef<str>) -> Self {
        let (value, label) = (escape(value.as_ref()), escape(label.as_ref()));
        self.tiles += &format!("<div class=\"tile\"><b>{value}</b><span>{label}</span></div>\n");
        self
    }

    /// Starts a section; `text` may be empty.
    #[must_use]
    pub fn section(mut self, heading: impl AsRef<str>, text: impl AsRef<str>) -> Self {
        self.close_grid();
        self.body += &format!("<h2>{}</h2>\n", escape(heading.as_ref()));
        if !text.as_ref().is_empty() {
            self.body += &format!("<p class=\"lead\">{}</p>\n", escape(text.as_ref()));
        }
        self
    }

    /// Shows bars.
    #[must_use]
    pub fn bars(self, chart: &BarChart) -> Self {
        self.figure(&chart.draw())
    }

    /// Shows lines.
    #[must_use]
    pub fn lines(self, chart: &LineChart) -> Self {
        self.figure(&chart.draw())
    }

    /// Shows points joined by lines.
    #[must_use]
    pub fn curve(self, chart: &CurveChart) -> Self {
        self.figure(&chart.draw())
    }

    /// Shows a heat map.
    #[must_use]
    pub fn heat(self, chart: &HeatChart) -> Self {
        self.figure(&chart.draw())
    }

    /// Shows a table.
    #[must_use]
    pub fn table(mut self, table: &TextTable) -> Self {
        self.close_grid();
        self.body += &table.render();
        self
    }

    /// The last line: version, command, seed.
    #[must_use]
    pub fn footer(mut self, text: impl Into<String>) -> Self {
        self.footer = text.into();
        self
    }

    /// The whole file.
    pub fn render(mut self) -> String {
        self.close_grid();
        let title = escape(&self.title);
        let part = |class: &str, content: &str| {
            if content.is_empty() {
                String::new()
            } else {
                format!("<div class=\"{class}\">\n{content}</div>\n")
            }
        };
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
             </head>\n<body>\n<main>\n<header><h1>{title}</h1><p>{}</p></header>\n{}{}{}\
             <footer>{}</footer>\n</main>\n</body>\n</html>\n",
            escape(&self.subtitle),
            part("verdicts", &self.verdicts),
            part("tiles", &self.tiles),
            self.body,
            escape(&self.footer),
        )
    }

    fn figure(mut self, drawing: &Drawing) -> Self {
        if !self.grid {
            self.body += "<div class=\"charts\">\n";
            self.grid = true;
        }
        let class = if drawing.wide { " class=\"wide\"" } else { "" };
        let unit = if drawing.unit.is_empty() {
            String::new()
        } else {
            format!(" <span>{}</span>", escape(&drawing.unit))
        };
        self.body +=
            &format!("<figure{class}>\n<figcaption><b>{}</b>{unit}</figcaption>\n", escape(&drawing.title));
        if drawing.legend.iter().any(|(_, name)| !name.is_empty()) {
            let entry = |(class, name): &(String, String)| {
                format!("<li><i class=\"{class}\"></i>{}</li>", escape(name))
            };
            self.body += &format!(
                "<ul class=\"legend\">{}</ul>\n",
                drawing.legend.iter().map(entry).collect::<String>()
            );
        }
        self.body += &drawing.svg;
        if !drawing.note.is_empty() {
            self.body += &format!("<p class=\"remark\">{}</p>\n", escape(&drawing.note));
        }
        self.body += "</figure>\n";
        self
    }

    fn close_grid(&mut self) {
        if std::mem::take(&mut self.grid) {
            self.body += "</div>\n";
        }
    }
}

// === impl TextTable ===

impl TextTable {
    /// An empty table.
    pub fn new<S: Into<String>>(caption: impl Into<String>, columns: impl IntoIterator<Item = S>) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self { caption: caption.into(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    #[must_use]
    pub fn row<S: Into<String>>(mut self, cells: impl IntoIterator<Item = S>) -> Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// The columns and the rows.
    pub(crate) fn cells(&self) -> (&[String], &[Vec<String>]) {
        (&self.columns, &self.rows)
    }

    fn render(&self) -> String {
        let cells = |tag: &str, cells: &[String]| -> String {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
        };
        let rows: String = self.rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
        let caption = match self.caption.as_str() {
            "" => String::new(),
            caption => format!("<caption>{}</caption>\n", escape(caption)),
        };
        let class = if self.columns.len() <= NARROW_COLUMNS { "table narrow" } else { "table" };
        format!(
            "<div class=\"{class}\"><table>\n{caption}<thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
             </table></div>\n",
            cells("th", &self.columns),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Warning;

    fn page() -> String {
        let assessment = Assessment {
            verdict: Verdict::Suspect,
            warnings: vec![Warning::Failures {
                failed: 3,
                requests: 90,
                example: "<b>bad</b> \"gateway\"".to_owned(),
            }],
        };
        Page::new("A & B <script>alert(1)</script>")
            .subtitle("8 replicas")
            .verdict("prefix_hash", &assessment)
            .verdict("", &Assessment { verdict: Verdict::Valid, warnings: Vec::new() })
            .headline("1.45x", "throughput")
            .section("Policies", "")
            .bars(&BarChart::new("Bars", "ms").series(["a", "b"]).group("<i>", [Some(1.0), Some(2.0)]))
            .lines(&LineChart::new("Lines", "s", "time").line("a", 1.0, [Some(1.0), None, Some(2.0)]))
            .section("Replicas", "Side by side.")
            .heat(&HeatChart::new("Heat", "requests", "time", 1.0).row("one", [1.0, 2.0, 3.0]).wide())
            .table(&TextTable::new("Figures", ["policy", "TTFT"]).row(["random", "1,320"]))
            .footer("evenload")
            .render()
    }

    /// Every element that opens also closes, in order; the few void elements apart.
    fn assert_nested(html: &str) {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let name: String = tag
                .trim_start_matches('/')
                .chars()
                .take_while(|letter| letter.is_ascii_alphanumeric())
                .collect();
            let inner = tag.split('>').next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "at {tag:?}");
            } else if !inner.ends_with('/') && !tag.starts_with('!') && name != "meta" {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<String>::new());
    }

    #[test]
    fn the_page_stands_on_its_own() {
        let page = page();
        assert_nested(&page);
        for foreign in ["<script", "http:", "https:", "<link", "@import", "url(", "<img", "<iframe"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("<h1>A &amp; B &lt;script&gt;alert(1)&lt;/script&gt;</h1>"));
        assert!(page.contains("(&lt;b&gt;bad&lt;/b&gt; &quot;gateway&quot;)"));
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
    }

    #[test]
    fn the_verdict_comes_first() {
        let page = page();
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing"));
        let order = [
            "<b>SUSPECT</b><span>prefix_hash</span>",
            "<b>VALID</b></h2>",
            "1.45x",
            "Policies",
            "Bars",
            "Heat",
        ];
        assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])));
        assert!(place("<figure class=\"wide\">") > place("Side by side."));
    }
}
