//! What is in the directory of the project when the script begins.

use gitlab_runner::mock::{JobReport, JobStatus};

use crate::{
    repository::git,
    world::{World, plain},
};

fn succeeded(report: &JobReport) -> String {
    let log = plain(report);
    assert_eq!(report.status, JobStatus::Success, "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_of_the_job_is_there_by_refspecs_and_depth() {
    let Some(world) = World::new() else { return };
    for (strategy, words) in [
        ("fetch", "Fetching changes"),
        ("clone", "Cloning repository"),
    ] {
        let spec = world
            .spec([
                "cat README",
                "git log --format=%s",
                "git rev-parse HEAD",
                "git branch --all --format='%(refname)'",
                "git tag --list",
            ])
            .variable("GIT_STRATEGY", strategy)
            .variable("GIT_DEPTH", "2");
        let log = succeeded(&world.run(spec).await);
        let sha = &world.repository.sha;
        let wanted = format!(
            "Getting source from Git repository\n\
             {words} with git depth set to 2...\n\
             Created fresh repository.\n\
             Checking out {} as detached HEAD (ref is main)...\n\
             Skipping Git submodules setup\n\
             Executing \"step_script\" stage of the job script\n\
             $ cat README\nthe third version\n\
             $ git log --format=%s\nthird\nsecond\n\
             $ git rev-parse HEAD\n{sha}\n",
            &sha[..8]
        );
        assert!(log.contains(&wanted), "{log}");
        // Only what the refspecs name.
        assert!(log.contains("refs/remotes/origin/main\n"), "{log}");
        assert!(
            log.ends_with(
                "$ git tag --list\nv1\nv2\n\
             Cleaning up project directory and file based variables\n\
             Job succeeded\n"
            ),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_history_needs_no_depth() {
    let Some(world) = World::new() else { return };
    let spec = world
        .spec([
            "git log --format=%s",
            "git rev-parse --is-shallow-repository",
        ])
        .variable("GIT_DEPTH", "0");
    let log = succeeded(&world.run(spec).await);
    assert!(log.contains("Fetching changes...\n"), "{log}");
    assert!(log.contains("third\nsecond\nfirst\n"), "{log}");
    assert!(log.contains("false\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_commit_of_the_branch_can_be_checked_out() {
    let Some(world) = World::new() else { return };
    let first = git(
        &world.repository.group().join("widget-works.git"),
        &["rev-parse", "v0"],
    );
    let first = String::from_utf8(first.unwrap()).unwrap().trim().to_owned();
    let spec = world.spec(["ls"]).payload_override(move |payload| {
        payload["git_info"]["sha"] = first.as_str().into();
        payload["git_info"]["refspecs"] = serde_json::json!([]);
    });
    let log = succeeded(&world.run(spec).await);
    assert!(log.contains("$ ls\nREADME\nfirst.txt\nCleaning"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn none_and_empty_ask_for_nothing() {
    let Some(world) = World::new() else { return };
    for (strategy, words) in [
        (
            "none",
            "Skipping Git repository setup\nSkipping Git checkout\nSkipping Git submodules",
        ),
        (
            "empty",
            "Skipping Git repository setup and creating an empty build directory",
        ),
    ] {
        let spec = world.spec(["ls -A"]).variable("GIT_STRATEGY", strategy);
        let log = succeeded(&world.run(spec).await);
        assert!(log.contains(words), "{log}");
        assert!(log.contains("$ ls -A\nCleaning"), "{log}");
    }
    assert!(world.git_requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_checkout_there_is_only_the_history() {
    let Some(world) = World::new() else { return };
    let spec = world
        .spec(["ls", "git log --format=%s origin/main"])
        .variable("GIT_CHECKOUT", "false");
    let log = succeeded(&world.run(spec).await);
    assert!(log.contains("Skipping Git checkout\n"), "{log}");
    assert!(log.contains("$ ls\n$ git log"), "{log}");
    assert!(log.contains("third\nsecond\nfirst\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_around_it_and_what_they_leave_is_cleaned() {
    let Some(world) = World::new() else { return };
    for (flags, left) in [("", "gone"), ("none", "there"), ("-ffdx -e left", "there")] {
        let spec = world
            .spec(["test -e left && echo it is there || echo it is gone"])
            .variable("GIT_CLEAN_FLAGS", flags)
            .payload_override(|payload| {
                payload["hooks"] = serde_json::json!([
                    {"name": "pre_get_sources_script", "script": ["echo \"before $MSG\"; touch left"]},
                    {"name": "post_get_sources_script", "script": ["cat README"]},
                ]);
            });
        let log = succeeded(&world.run(spec).await);
        let before = log.find("before hello\n").unwrap();
        let fetching = log.find("Fetching changes").unwrap();
        let after = log.find("the third version\n").unwrap();
        let script = log.find("Executing \"step_script\"").unwrap();
        assert!(
            before < fetching && fetching < after && after < script,
            "{log}"
        );
        assert!(log.contains(&format!("\nit is {left}\n")), "{flags}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_come_with_the_same_password() {
    let Some(world) = World::new() else { return };
    let group = world.repository.group();
    let make = |name: &str, submodule: Option<&str>| {
        let dir = group.join(name);
        std::fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "--quiet", "--initial-branch=main", "."]).unwrap();
        std::fs::write(dir.join("content"), name).unwrap();
        let add = |submodule: &str| {
            let dir_of = group.join(submodule);
            let sha = git(&dir_of, &["rev-parse", "HEAD"]).unwrap();
            let sha = String::from_utf8(sha).unwrap();
            let path = submodule.trim_end_matches(".git");
            let modules =
                format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = ../{submodule}\n");
            std::fs::write(dir.join(".gitmodules"), modules).unwrap();
            let entry = format!("160000,{},{path}", sha.trim());
            git(&dir, &["update-index", "--add", "--cacheinfo", &entry]).unwrap();
        };
        submodule.into_iter().for_each(add);
        git(&dir, &["add", "content"]).unwrap();
        if submodule.is_some() {
            git(&dir, &["add", ".gitmodules"]).unwrap();
        }
        git(&dir, &["commit", "--quiet", "--message", name]).unwrap();
        String::from_utf8(git(&dir, &["rev-parse", "HEAD"]).unwrap()).unwrap()
    };
    make("inner.git", None);
    make("outer.git", Some("inner.git"));
    let sha = make("whole.git", Some("outer.git"));
    for (strategy, wanted) in [
        ("none", "Skipping Git submodules setup\n"),
        (
            "normal",
            "Updating/initializing submodules with git depth set to 20...\n",
        ),
        (
            "recursive",
            "Updating/initializing submodules recursively with git depth set to 20...\n",
        ),
    ] {
        let sha = sha.trim().to_owned();
        let spec = world
            .spec([
                "cat outer/content || echo none",
                "cat outer/inner/content || echo none",
                "! grep -rq \"$CI_JOB_TOKEN\" .git",
            ])
            .variable("GIT_SUBMODULE_STRATEGY", strategy)
            .payload_override(move |payload| {
                let url = payload["git_info"]["repo_url"].as_str().unwrap();
                let url = url.replace("widget-works", "whole");
                payload["git_info"]["repo_url"] = url.into();
                payload["git_info"]["sha"] = sha.as_str().into();
            });
        let log = succeeded(&world.run(spec).await);
        assert!(log.contains(wanted), "{log}");
        assert_eq!(log.contains("none\nouter.git"), strategy != "none", "{log}");
        assert_eq!(
            log.contains("none\ninner.git"),
            strategy == "recursive",
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn git_trusts_whom_the_runner_trusts() {
    let Some(world) = World::over_tls() else {
        return;
    };
    let spec = world.spec(["cat README", "git fetch --quiet origin main && echo again"]);
    let log = succeeded(&world.run(spec).await);
    assert!(log.contains("the third version\n"), "{log}");
    assert!(log.contains("again\nCleaning"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_passes_on_is_there_in_the_next() {
    let Some(world) = World::new() else { return };
    let spec = world
        .spec([
            "echo \"from the hook: $HOOK\"",
            "echo 'WORDS=some words = $MSG' >> \"$GITLAB_ENV\"",
            "printf LAST=1 >> \"$GITLAB_ENV\"",
        ])
        .after_script(["echo \"$HOOK, $WORDS, $LAST.\""])
        .payload_override(|payload| {
            let script = ["echo HOOK=hooked >> \"$GITLAB_ENV\""];
            payload["hooks"] =
                serde_json::json!([{"name": "pre_get_sources_script", "script": script}]);
        });
    let log = succeeded(&world.run(spec).await);
    assert!(log.contains("from the hook: hooked\n"), "{log}");
    assert!(log.contains("hooked, some words = $MSG, 1.\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_trace_shows_every_command() {
    let Some(world) = World::new() else { return };
    let spec = world
        .spec(["for word in one two; do true \"$word\"; done"])
        .variable("CI_DEBUG_TRACE", "true")
        .variable("GIT_STRATEGY", "none");
    let report = world.run(spec).await;
    let log = succeeded(&report);
    assert!(
        log.contains("+ true one\n") && log.contains("+ true two\n"),
        "{log}"
    );
    assert!(report.debug_trace);
}
