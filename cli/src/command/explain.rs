//! `tidegate explain`: what a code that a client has seen means, from docs/codes.md.

use std::process::ExitCode;

use anyhow::Context;
use tidegate_cli::{codes, output};

/// Arguments of `tidegate explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The code: of an error, a disconnect, an unsubscribe push, or an HTTP status.
    code: u32,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = codes::explain(args.code);
    let found = (!found.is_empty()).then_some(found).with_context(|| {
        let known: Vec<_> = codes::all().iter().map(ToString::to_string).collect();
        format!(
            "no gateway sends {}; an application chooses errors from 400 to 1999 and disconnects from 4000 to 4999 itself. \
             Known codes: {}",
            args.code,
            known.join(", ")
        )
    })?;
    output::line(found.join("\n\n"));
    Ok(ExitCode::SUCCESS)
}
