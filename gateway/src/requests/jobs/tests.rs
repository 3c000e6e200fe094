use tidegate_shared::envelope::JSON;

use super::*;

fn request(attempt: u32) -> Request {
    Request {
        id: RequestId::parse("gw.1").unwrap(),
        user: Some("42".to_owned()),
        client: None,
        route: "r".to_owned(),
        method: Some("m".to_owned()),
        channel: None,
        info: None,
        channel_info: None,
        later: true,
        attempt,
        accepted_at: 0,
        key: None,
        priority: tidegate_shared::route::Priority::Normal,
        trace: None,
        content_type: JSON.to_owned(),
        body: Bytes::new(),
    }
}

#[test]
fn an_answer_decides_then_a_worker_then_the_time_it_waits_for() {
    let answer = |outcome| Answer::to(&request(0), 0, "w", outcome);
    let error = |code| Outcome::Error { code, message: "m".to_owned(), data: Bytes::new() };
    let running = RunningJob { attempt: 1, since: 2, worker: "w".to_owned(), progress: None };
    let all = |outcome: Option<Outcome>| Found {
        answer: outcome.map(answer),
        parked: Some(Parked { request: request(3), until: UNIX_EPOCH, progress: Some(Report::default()) }),
        waiting: Some(request(2)),
    };
    let ok = answer(Outcome::Ok("1".into()));
    assert_eq!(all(Some(ok.outcome.clone())).state(Some(running.clone())), JobState::Answered(ok));
    assert_eq!(all(Some(error(1005))).state(None), JobState::Cancelled);
    assert_eq!(all(Some(error(1004))).state(None), JobState::Dead(answer(error(1004))));
    assert_eq!(all(Some(error(422))).state(None), JobState::Answered(answer(error(422))));
    assert_eq!(all(None).state(Some(running.clone())), JobState::Running(running));
    let waiting = JobState::Waiting { attempt: 3, until: UNIX_EPOCH, progress: Some(Report::default()) };
    assert_eq!(all(None).state(None), waiting);
    let found = Found { waiting: Some(request(2)), ..Found::default() };
    assert_eq!(found.state(None), JobState::Accepted { attempt: 2 });
    assert_eq!(Found::default().state(None), JobState::Unknown);
}
