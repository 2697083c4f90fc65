//! Whether the runners asked as they should: not too often, not after the end, with the right token.

use std::{collections::BTreeMap, time::Duration};

use gitlab_runner::Time;

use super::{
    plan::Plan,
    run::Evidence,
    weather::{Seen, What},
};

/// Between a request that failed and the next of its kind.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) fn check(plan: &Plan, evidence: &Evidence, wrong: &mut Vec<String>) {
    tokens(plan, evidence, wrong);
    for (report, job) in evidence.reports.iter().zip(&plan.jobs) {
        let id = report.id.0;
        let mut of_job: Vec<&Seen> = evidence
            .seen
            .iter()
            .filter(|it| it.job == Some(id))
            .filter(|it| !matches!(it.what, What::Download | What::Other))
            .collect();
        // A job request may have waited for long when it hands out a job.
        of_job.sort_by_key(|it| match (it.what, it.answer) {
            (What::Poll, Some((at, _))) => at,
            _ => it.at,
        });
        for (at, text) in one_job(plan, &of_job) {
            wrong.push(format!("{} ({id}): {text} at {at}", job.name));
        }
    }
    polls(plan, evidence, wrong);
    for request in &evidence.storage {
        if let Some(credential) = request.credential {
            wrong.push(format!("{credential} was sent to the storage"));
        }
    }
}

fn one_job(plan: &Plan, seen: &[&Seen]) -> Vec<(Time, String)> {
    let mut wrong = Vec::new();
    let slack = plan.slowest();
    let mut over: Option<(Time, &str)> = None;
    let mut pause: Option<(Time, &Seen)> = None;
    // Who is given a job once more asks whether it may have it, and gives it back if nobody says.
    let again = plan.parts.contains("weather-Again");
    let mut unanswered = false;
    for seen in seen {
        if seen.what == What::Poll {
            unanswered = over.is_some();
            continue;
        }
        let state = seen.state.as_deref();
        let asks = again && (state == Some("running") || unanswered && state == Some("failed"));
        if asks {
            unanswered = matches!(seen.answer, None | Some((_, 408 | 409 | 412 | 429 | 500..)));
        }
        if let Some((at, why)) = over
            && !asks
            && seen.at > at + slack + slack
        {
            let state = state.unwrap_or_default();
            wrong.push((seen.at, format!("{:?} {state} after {why}", seen.what)));
            break;
        }
        if seen.what == What::Upload {
            continue;
        }
        if let Some((until, before)) = pause.take()
            && seen.at < until
        {
            let text = format!("{:?} after {:?} at {}", seen.what, before.answer, before.at);
            wrong.push((seen.at, text));
        }
        match seen.answer {
            Some((at, status)) if status == 429 || status >= 500 && seen.retry_after.is_some() => {
                let seconds = seen.retry_after.unwrap_or(1).min(600);
                pause = Some((at + Duration::from_secs(seconds), seen));
            }
            // The first may have travelled long, the next one not.
            Some((_, 500..)) | None => pause = Some((seen.at + (PAUSE - slack.min(PAUSE)), seen)),
            Some((at, 403)) => over = over.or(Some((at, "403"))),
            Some((at, 200)) if seen.is_final() => over = over.or(Some((at, "its end"))),
            _ => {}
        }
    }
    wrong
}

fn polls(plan: &Plan, evidence: &Evidence, wrong: &mut Vec<String>) {
    let slack = plan.slowest();
    let mut by_token: BTreeMap<&str, u32> = BTreeMap::new();
    for runner in &plan.runners {
        *by_token.entry(&runner.token).or_default() += 1;
    }
    for (token, runners) in by_token {
        let polls: Vec<&Seen> = evidence
            .seen
            .iter()
            .filter(|it| it.what == What::Poll && it.token == token)
            .collect();
        // Each brings a job, or is followed by a pause of seconds.
        let jobs = polls
            .iter()
            .filter(|it| matches!(it.answer, Some((_, 201))))
            .count();
        let seconds = evidence.end.since_origin().as_secs();
        let most = u64::from(runners) * (seconds + 60) + 2 * jobs as u64;
        if polls.len() as u64 > most {
            wrong.push(format!("{} job requests in {seconds} s", polls.len()));
        }
        if runners > 1 {
            continue;
        }
        for pair in polls.windows(2) {
            let failed = match pair[0].answer {
                // That says when.
                Some((_, 429 | 503)) if pair[0].retry_after.is_some() => false,
                Some((_, status)) => status >= 500 || status == 429,
                None => true,
            };
            if failed && pair[1].at < pair[0].at + (PAUSE - slack.min(PAUSE)) {
                wrong.push(format!(
                    "job requests at {} and {}, though the first failed: {:?}",
                    pair[0].at, pair[1].at, pair[0].answer
                ));
            }
        }
    }
}

/// Each token goes only where it belongs.
fn tokens(plan: &Plan, evidence: &Evidence, wrong: &mut Vec<String>) {
    for seen in &evidence.seen {
        let rotated = |token: &str| {
            evidence
                .runs
                .iter()
                .any(|it| it.tokens.iter().any(|it| it == token))
        };
        let of_runner =
            plan.runners.iter().any(|it| it.token == seen.token) || rotated(&seen.token);
        let ids = evidence.reports.iter().map(|it| it.id.0);
        let mut jobs = ids.zip(&evidence.job_tokens);
        let fits = match seen.what {
            What::Poll | What::Other => of_runner,
            What::Patch | What::Update | What::Upload => {
                jobs.any(|(id, token)| seen.job == Some(id) && *token == seen.token)
            }
            What::Download => jobs.any(|(_, token)| *token == seen.token),
        };
        if !fits {
            let what = seen.what;
            wrong.push(format!(
                "{what:?} of job {:?} at {} with a wrong token",
                seen.job, seen.at
            ));
        }
    }
}
