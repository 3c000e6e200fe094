//! A chart of the first figure of every case, as SVG. Pure.

use crate::{
    bench::{results::Results, server::Peer},
    report::markdown::number,
};

const WIDTH: usize = 900;
const BAR: usize = 16;
const LABEL: usize = 210;
const MOST: f64 = 520.0;

/// Draws bars, one for each side of a case with at least two.
pub(crate) fn render(results: &Results) -> String {
    let (mut body, mut y) = (Vec::new(), 20);
    for (scenario, case) in results.cases() {
        let Some((name, _)) = results.figures(scenario, case).first().copied() else { continue };
        let bars: Vec<(Peer, f64)> = results
            .peers(scenario, case)
            .into_iter()
            .filter_map(|peer| Some((peer, results.spread(scenario, case, peer, name)?.median.max(0.0))))
            .collect();
        let longest = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if bars.len() < 2 || longest <= 0.0 {
            continue;
        }
        y += 10;
        let title = escape(&format!("{}: {case} ({name})", scenario.title()));
        body.push(format!("<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{title}</text>\n"));
        for (peer, value) in bars {
            let colour = match peer {
                Peer::Tidegate | Peer::TidegateRelaxed => "#0b7285",
                peer if peer.is_baseline() => "#ced4da",
                _ => "#868e96",
            };
            let (top, length) = (y + 8, (MOST * value / longest).max(1.0));
            body.push(format!(
                "<text x=\"{x}\" y=\"{line}\" text-anchor=\"end\">{title}</text>\
                 <rect x=\"{LABEL}\" y=\"{top}\" width=\"{length:.0}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                 <text x=\"{end:.0}\" y=\"{line}\">{value}</text>\n",
                x = LABEL - 8,
                line = top + BAR - 4,
                title = escape(peer.title()),
                end = 216.0 + length,
                value = number(value),
            ));
            y += BAR + 4;
        }
        y += 22;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        height = y + 10,
        body = body.concat()
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::results;

    #[test]
    fn the_longest_bar_has_the_full_width_and_the_others_their_share() {
        let text = render(&results(&[(Peer::Raw, 0, 200.0), (Peer::Tidegate, 0, 100.0)]));
        assert!(text.contains("width=\"520\"") && text.contains("width=\"260\""), "{text}");
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn a_case_with_one_side_is_no_comparison() {
        assert!(!render(&results(&[(Peer::Tidegate, 0, 100.0)])).contains("Tidegate"));
    }
}
