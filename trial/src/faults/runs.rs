//! The file in which the workers record every run: compared with the answers that clients got.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use anyhow::Context;

use super::{answers::ROUTES, findings::Wrong, numbers::Numbers, user::User};

/// Reads the file line by line and returns the number of runs. An answer of a run that no worker recorded was made by nobody.
pub(super) fn compare(file: &Path, users: &[Arc<User>]) -> anyhow::Result<usize> {
    let reader = BufReader::new(File::open(file).with_context(|| format!("opening {}", file.display()))?);
    let by_name: BTreeMap<&str, &Arc<User>> = users.iter().map(|user| (user.name.as_str(), user)).collect();
    let (mut runs, mut recorded) = (0, BTreeMap::<(String, &str), Numbers>::new());
    for line in reader.lines() {
        let line = line?;
        runs += 1;
        let Some((name, route, n, run)) = read(&line) else { continue };
        let answered = by_name.get(name).and_then(|user| user.book().answers.run(route, n));
        if answered == Some(run) {
            recorded.entry((name.to_owned(), route)).or_default().insert(n);
        }
    }
    for user in users {
        for route in ROUTES {
            let recorded = recorded.remove(&(user.name.clone(), route)).unwrap_or_default();
            let mut book = user.book();
            let begun = book.answers.begun(route);
            for n in (0..begun).filter(|n| !recorded.contains(*n)) {
                if let Some(run) = book.answers.run(route, n) {
                    book.findings.add(Wrong::Misinformed, || {
                        format!(
                            "{}: {route}-{n} was answered by run {run}, which no worker recorded",
                            user.name
                        )
                    });
                }
            }
        }
    }
    Ok(runs)
}

fn read(line: &str) -> Option<(&str, &'static str, u64, u64)> {
    let mut words = line.split(' ');
    let (name, route) = (words.next()?, words.next()?);
    let route = ROUTES.into_iter().find(|known| *known == route)?;
    Some((name, route, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Stamp;

    #[test]
    fn an_answer_needs_a_recorded_run_and_further_runs_are_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs");
        std::fs::write(&file, "u0 steady 0 5\nu0 steady 0 6\n").unwrap();
        let new = |name: &str| User::new(name.to_owned(), "c:1".to_owned(), String::new(), String::new());
        let users = vec![Arc::new(new("u0"))];
        let answer = |n, run| {
            let mut book = users[0].book();
            let book = &mut *book;
            book.answers.begin("steady");
            let stamp = Stamp { to: "u0".to_owned(), by: "steady".to_owned(), n, run };
            book.answers.take(("steady", n), &stamp, &mut book.findings);
        };
        answer(0, 6);
        assert_eq!(compare(&file, &users).unwrap(), 2);
        assert!(users[0].book().findings.is_empty());
        answer(1, 9);
        compare(&file, &users).unwrap();
        assert_eq!(users[0].book().findings.count(Wrong::Misinformed), 1);
    }
}
