//! The tables of docs/codes.md, so that the page and the command say the same.

const PAGE: &str = include_str!("../../docs/codes.md");

/// What each row with this code says, in the order of the page.
pub fn explain(code: u32) -> Vec<String> {
    rows().filter(|row| row.code == code).map(|row| row.text()).collect()
}

/// All codes of the page, in its order.
pub fn all() -> Vec<u32> {
    rows().map(|row| row.code).collect()
}

/// A row of a table.
struct Row<'a> {
    section: &'a str,
    code: u32,
    head: &'a str,
    cells: Vec<&'a str>,
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    let (mut section, mut head) = ("", "");
    PAGE.lines().filter_map(move |line| {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let cells: Vec<_> = line.strip_prefix('|')?.trim_end_matches('|').split('|').map(str::trim).collect();
        if let Ok(code) = cells.first()?.parse() {
            return Some(Row { section, code, head, cells });
        }
        // The line of dashes is no head.
        if !line.contains("---") {
            head = line;
        }
        None
    })
}

impl Row<'_> {
    fn text(&self) -> String {
        let names = self.head.trim_matches('|').split('|').map(str::trim);
        let fields = names.zip(&self.cells).filter(|(_, cell)| !cell.is_empty());
        let fields = fields.map(|(name, cell)| format!("{name}: {}", plain(cell)));
        [self.section.to_owned()].into_iter().chain(fields).collect::<Vec<_>>().join("\n")
    }
}

/// The text without the marks of Markdown: links become what they say.
fn plain(cell: &str) -> String {
    let (mut text, mut rest) = (String::new(), cell);
    while let Some((before, label, behind)) = link(rest) {
        text.push_str(before);
        text.push_str(label);
        rest = behind;
    }
    text.push_str(rest);
    text.replace("**", "").replace('`', "")
}

/// The first link: what is before it, what it says, and what is behind it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('[')?;
    let (label, rest) = rest.split_once("](")?;
    let (_, behind) = rest.split_once(')')?;
    Some((before, label, behind))
}

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::codes;

    use super::*;

    #[test]
    fn every_code_of_the_protocol_is_explained() {
        let errors = codes::ERRORS.iter().map(|error| error.code);
        let disconnects = codes::DISCONNECTS.iter().map(|disconnect| u32::from(disconnect.code));
        let unsubscriptions = codes::UNSUBSCRIPTIONS.iter().map(|unsubscription| unsubscription.code);
        for code in errors.chain(disconnects).chain(unsubscriptions) {
            assert!(!explain(code).is_empty(), "{code}");
        }
        assert!(explain(1).is_empty());
    }

    #[test]
    fn a_row_is_told_as_text() {
        let [slow] = &explain(3008)[..] else { panic!("{:?}", explain(3008)) };
        let lines: Vec<_> = slow.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "Disconnects: the gateway ended the connection",
                "code: 3008",
                "reason: slow",
                "SDK reconnects: yes",
            ]
        );
        assert!(lines[4].starts_with("meaning: More than gateway.limits.outbox was waiting"), "{slow}");
        assert!(!slow.contains(['`', '[', '*']) && !slow.contains("]("), "{slow}");
    }

    #[test]
    fn a_code_with_two_meanings_is_told_twice() {
        let told = explain(1002);
        assert!(told.len() == 2 && told[0] != told[1], "{told:?}");
    }
}
