//! Every session is replayed, and the runner asks what was recorded, byte for byte.

use gitlab_runner::{RunErrorKind, har::Mode};

use crate::{
    make::{self, Dialect, Scene},
    world::{TOKEN, replay, replay_as, session},
};

macro_rules! sessions {
    ($( $test:ident: $name:literal, $dialect:ident, $token:expr, $scene:ident; )*) => {
        /// Their names, in whose words they are, the runner's token, and how they came about.
        pub(crate) const SESSIONS: &[(&str, Dialect, &str, Scene)] = &[
            $( ($name, Dialect::$dialect, $token, make::$scene), )*
        ];

        $(
            #[test]
            fn $test() {
                is_replayed($name);
            }
        )*
    };
}

sessions! {
    an_idle_runner_with_long_polls: "idle", Ours, TOKEN, idle;
    an_idle_runner_behind_mitmproxy: "mitm-idle", Mitmproxy, TOKEN, idle;
    a_job_that_succeeds: "success", Ours, TOKEN, success;
    a_job_that_succeeds_behind_mitmproxy: "mitm-success", Mitmproxy, TOKEN, success;
    a_script_that_fails_with_an_exit_code: "failure", Ours, TOKEN, failure;
    a_cancel_that_the_job_may_take_note_of: "graceful-cancel", Mitmproxy, TOKEN, graceful_cancel;
    a_cancel_by_force: "forced-cancel", Ours, TOKEN, forced_cancel;
    a_log_that_has_to_be_sent_again: "rewind-416", Mitmproxy, TOKEN, rewind;
    a_final_update_that_waits_for_the_log: "loop-202", Ours, TOKEN, accepted_loop;
    rate_limits_of_every_kind: "limits-429", Mitmproxy, TOKEN, rate_limits;
    a_token_that_is_refused: "refused-token", Mitmproxy, "glrt-unknown-to-gitlab", refused_token;
    an_artifact_that_is_refused_once: "artifact-503-201", Ours, TOKEN, artifact_retry;
    an_artifact_behind_mitmproxy: "mitm-artifact", Mitmproxy, TOKEN, artifact_retry;
    the_artifacts_of_another_job_from_a_storage: "dependency-302", Ours, TOKEN, dependency;
    the_same_behind_mitmproxy: "mitm-dependency", Mitmproxy, TOKEN, dependency;
    a_job_that_cannot_be_decoded: "bad-payload", Mitmproxy, TOKEN, bad_payload;
    replies_that_are_lost: "lost-replies", Ours, TOKEN, lost_replies;
    the_same_as_mitmproxy_sees_them: "mitm-lost-replies", Mitmproxy, TOKEN, lost_replies;
}

fn is_replayed(name: &str) {
    let har = session(name);
    // Whatever the token is now.
    let runs = [
        replay(&har, Mode::Strict),
        replay(&har, Mode::Strict),
        replay_as(&har, Mode::Strict, "glrt-another-token"),
    ];
    for run in &runs {
        if let Err(mismatch) = &run.verdict {
            panic!("{name}: {mismatch}");
        }
        assert_eq!(run.left, [0; 0], "{name}");
        let refused = run.ran.end == Err(RunErrorKind::TokenRefused);
        assert_eq!(
            refused,
            name == "refused-token",
            "{name}: {:?}",
            run.ran.end
        );
    }
    let [one, other, _] = runs.map(|run| {
        let mut har = run.ran.har;
        for entry in &mut har.log.entries {
            // An archive holds the time at which its files were made.
            if let Some(data) = &mut entry.request.post_data {
                data.sha256.clear();
            }
        }
        har.to_json()
    });
    assert!(one == other, "{name}: two replays are not alike");

    // Who is less strict finds nothing to say either.
    let lenient = replay(&har, Mode::Lenient);
    lenient.verdict.unwrap();
    assert_eq!(lenient.differences, [""; 0], "{name}");
}
