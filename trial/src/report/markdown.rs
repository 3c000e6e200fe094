//! The tables, as Markdown. Pure.

use crate::{
    bench::results::{Better, Results, Spread},
    bench::server::Peer,
    process::NOISY,
};

/// Renders everything.
pub(crate) fn render(results: &Results) -> String {
    let mut parts = vec![format!("{}\n", results.conditions.sentence())];
    let mut last = None;
    for (scenario, case) in results.cases() {
        if last != Some(scenario) {
            parts.push(format!("\n### {}\n", scenario.title()));
            last = Some(scenario);
        }
        parts.push(format!("\n**{}**\n\n{}", first_capital(case), table(results, scenario, case)));
        for remark in results.remarks(scenario, case) {
            parts.push(format!("\n- {remark}\n"));
        }
        let foreign = results.foreign(scenario, case);
        if foreign >= NOISY {
            parts.push(format!(
                "\nOther processes used up to {foreign:.0} % of the machine: not to be relied on.\n"
            ));
        }
    }
    if !results.missing.is_empty() {
        parts.push("\n### Not measured\n\n".to_owned());
        parts.extend(results.missing.iter().map(|missing| format!("- {missing}\n")));
    }
    parts.concat()
}

fn table(results: &Results, scenario: crate::bench::Scenario, case: &str) -> String {
    let (peers, figures) = (results.peers(scenario, case), results.figures(scenario, case));
    let base = peers.iter().copied().find(|peer| peer.is_baseline());
    let compared = base.zip(figures.first().copied());
    let mut head = vec![String::new()];
    head.extend(figures.iter().map(|(name, _)| (*name).to_owned()));
    head.extend(compared.map(|(base, (name, _))| format!("{name}, of the {}", base.title())));
    let keeps = results.keeps(scenario, case);
    head.extend(keeps.then(|| "acknowledged means".to_owned()));
    let mut lines = vec![row(&head), row(&vec!["---".to_owned(); head.len()])];
    let several = results.conditions.turns > 1;
    for peer in &peers {
        let mut cells = vec![peer.title().to_owned()];
        for (name, better) in &figures {
            let spread = results.spread(scenario, case, *peer, name);
            let cell = spread.map_or_else(|| "-".to_owned(), |spread| cell(spread, several));
            let best = *better != Better::Neither && is_best(results, (scenario, case), *peer, name, *better);
            cells.push(if best { format!("**{cell}**") } else { cell });
        }
        if let Some((base, (name, _))) = compared {
            let ratio = results.ratio((scenario, case), *peer, base, name);
            cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x")));
        }
        cells.extend(keeps.then(|| peer.kept().to_owned()));
        lines.push(row(&cells));
    }
    lines.join("\n") + "\n"
}

fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// Whether a side is ahead of all others that are no baselines.
fn is_best(
    results: &Results,
    (scenario, case): (crate::bench::Scenario, &str),
    peer: Peer,
    name: &str,
    better: Better,
) -> bool {
    let of = |peer| results.spread(scenario, case, peer, name).map(|spread| spread.median);
    let (Some(own), false) = (of(peer), peer.is_baseline()) else { return false };
    let peers = results.peers(scenario, case);
    let mut others = peers.iter().filter(|other| **other != peer && !other.is_baseline()).peekable();
    others.peek().is_some()
        && others.filter_map(|other| of(*other)).all(|other| match better {
            Better::Higher => own > other,
            Better::Lower => own < other,
            Better::Neither => false,
        })
}

fn cell(spread: Spread, several: bool) -> String {
    let Spread { median, least, most } = spread;
    if several && (most - least).abs() > median.abs() * 0.05 {
        format!("{} [{}-{}]", number(median), number(least), number(most))
    } else {
        number(median)
    }
}

/// Lines of a document between which the tables stand.
const BEGIN: &str = "<!-- tables -->\n";
const END: &str = "<!-- end of tables -->";

/// Replaces the tables of a document. `None` if it has no place for them.
pub(crate) fn put_into(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, behind) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{behind}"))
}

/// Three digits that count, with thousands apart.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        let digits = format!("{size:.0}");
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        if value < 0.0 { format!("-{text}") } else { text }
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        format!("{value:.2}")
    }
}

fn first_capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::results;

    #[test]
    fn a_table_has_a_row_for_each_side_with_its_ratio_to_the_floor() {
        let text = render(&results(&[
            (Peer::Raw, 0, 200_000.0),
            (Peer::Tidegate, 0, 150_000.0),
            (Peer::CentrifugoMemory, 0, 100_000.0),
        ]));
        assert!(text.contains("### Fan-out"), "{text}");
        assert!(text.contains("| Tidegate | **150,000** | 1.50 | 0.75x | on the disk"), "{text}");
        assert!(text.contains("| Centrifugo, memory engine | 100,000 | 1.50 | 0.50x |"), "{text}");
        assert!(text.contains("| raw `send()` loop | 200,000 | 1.50 | 1.00x |"), "{text}");
    }

    #[test]
    fn several_turns_show_how_far_they_are_apart() {
        let text = render(&results(&[
            (Peer::Tidegate, 0, 100.0),
            (Peer::Tidegate, 1, 300.0),
            (Peer::Tidegate, 2, 200.0),
        ]));
        assert!(text.contains("| 200 [100-300] |"), "{text}");
    }

    #[test]
    fn tables_replace_those_that_stand_in_a_document() {
        let document = "# Title\n<!-- tables -->\nold\n<!-- end of tables -->\nbehind\n";
        let new = put_into(document, "new\n").unwrap();
        assert_eq!(new, "# Title\n<!-- tables -->\n\nnew\n\n<!-- end of tables -->\nbehind\n");
        assert_eq!(put_into(&new, "new\n"), Some(new.clone()));
        assert_eq!(put_into("# Title\n", "new\n"), None);
    }

    #[test]
    fn a_disturbed_case_says_so() {
        let mut results = results(&[(Peer::Tidegate, 0, 1.0)]);
        assert!(!render(&results).contains("not to be relied on"));
        results.rows[0].foreign_cpu_percent = 40.0;
        assert!(render(&results).contains("40 % of the machine: not to be relied on"));
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(
            [0.0, 0.257, 5.5, 52.49, 999.6, 1_452_000.0, -1500.0].map(number),
            ["0", "0.26", "5.50", "52.5", "1,000", "1,452,000", "-1,500"]
        );
    }
}
