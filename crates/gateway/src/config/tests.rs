use super::*;

fn read(text: &str) -> Result<Settings, ConfigError> {
    Config::from_yaml(text, Path::new("evenload.yaml")).and_then(|config| config.resolve())
}

#[test]
fn a_file_sets_everything() {
    let settings = read(
        "listen: 0.0.0.0:80\nreplicas:\n- http://a:1\n- {url: 'http://b:2', weight: 3, adapters: [x]}\n\
         policy: {prefix_hash: {load_factor_percent: 150}}\nlimits: {connect_timeout_s: 0.5}\n\
         checks: {interval_s: 0}\nhealth: {rise: 4}\nretry: {retries: 0}\naccess_log: all\n",
    )
    .unwrap();
    assert_eq!(settings.listen.to_string(), "0.0.0.0:80");
    assert_eq!(settings.replicas[1].weight, 3);
    let PolicySettings::PrefixHash(policy) = settings.policy else { panic!() };
    assert_eq!(policy.load_factor_percent, 150);
    assert_eq!(settings.limits.connect_timeout, Duration::from_millis(500));
    assert_eq!((settings.health.rise, settings.retry.retries), (4, 0));
    assert!(!settings.health.wait_for_check, "without checks nothing can be waited for");
    assert_eq!(settings.access_log, AccessLog::All);
}

#[test]
fn faults_name_their_line_and_column() {
    for (text, position, word) in [
        ("replicas: [http://a]\nlistne: 1\n", "evenload.yaml:2:1: ", "listne"),
        ("replicas: [http://a]\nlimits:\n  max_body: 5\n", "evenload.yaml:3:3: ", "max_body"),
        ("policy: prefix_hsh\n", "evenload.yaml:1:9: ", "prefix_hash"),
        ("replicas:\n- ftp://a\n", "evenload.yaml:2:3: ", "neither http:// nor https://"),
        ("replicas: [http://a]\ntls: {cert: x}\n", "evenload.yaml:2:7: ", "cert"),
        ("replicas: [http://a\n", "evenload.yaml:", ""),
        ("replicas:\n- {url: 'http://a', weight: 0}\n", "evenload.yaml:2:21: `replicas[0].weight`: ", "zero"),
        ("threads: 0\n", "evenload.yaml:1:1: `threads`: ", "zero"),
        ("policy: {session: {nope: 1}}\n", "evenload.yaml:1:20: unknown", "`nope`"),
        (
            "policy: {session: {minimum_load: many}}\n",
            "evenload.yaml:1:34: `policy.session.minimum_load`: ",
            "",
        ),
        ("policy: {session: 5}\n", "evenload.yaml:1:19: `policy.session`: ", ""),
        (
            "drain_timeout_s: 30s\n",
            "evenload.yaml:1:18: `drain_timeout_s`: ",
            "`30s` is not a time in seconds",
        ),
        ("retry: {retries: -1}\n", "evenload.yaml:1:18: `retry.retries`: ", ""),
        ("limits:\n  max_header_bytes: many\n", "evenload.yaml:2:21: `limits.max_header_bytes`: ", ""),
        ("limits: 5\n", "evenload.yaml:1:9: `limits`: ", ""),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.starts_with(position) && error.contains(word), "{text:?} gives {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn keys_without_a_value_say_nothing() {
    let keys = ["limits", "checks", "health", "retry", "tls", "policy", "threads", "decision_log"];
    for key in keys.map(|key| format!("{key}:\n  # all: commented out\n")) {
        assert_eq!(
            read(&format!("replicas: [http://a]\n{key}")).unwrap(),
            read("replicas: [http://a]").unwrap()
        );
    }
    for policy in [
        "prefix_aware:\n    # all: commented out",
        "{prefix_aware: {balancers: , engine: , home_weight: ~}}",
        "{prefix_aware: {engine: {prefill_token_s: }}}",
    ] {
        let settings = read(&format!("replicas: [http://a]\npolicy:\n  {policy}\n")).unwrap();
        assert_eq!(settings.policy, PolicySettings::default(), "{policy}");
    }
    read("replicas: [http://a]\npolicy: {session: {headers: }}\n").unwrap();
    read("replicas: [http://a]\npolicy: {random: }\n").unwrap();
    read("replicas: [http://a]\ntls:\n  insecure_replicas:\nlimits:\n  idle_timeout_s: ~\n").unwrap();
    read("replicas: [{url: 'http://a', weight: }]\n").unwrap();
    assert!(matches!(read("replicas:\n"), Err(ConfigError::NoReplicas)));
}

#[test]
fn flags_go_over_the_file() {
    let file =
        Config::from_yaml("replicas: [http://a]\nthreads: 3\nretry: {retries: 1}\n", Path::new("f")).unwrap();
    let flags = Config { threads: NonZero::new(2), ..Config::default() };
    let settings = flags.over(file).resolve().unwrap();
    assert_eq!((settings.threads.get(), settings.retry.retries, settings.replicas.len()), (2, 1, 1));
}

#[test]
fn what_cannot_be_used_is_refused() {
    assert!(matches!(read(""), Err(ConfigError::NoReplicas)));
    for again in ["http://a/", "http://a:80", "http://A", "http://a:080//"] {
        assert!(
            matches!(read(&format!("replicas: [http://a, '{again}']")), Err(ConfigError::Twice(_))),
            "{again}"
        );
    }
    read("replicas: [http://a, https://a, 'http://a:81', http://a/b, http://a/B]").unwrap();
    assert!(matches!(read("replicas: [http://a]\nhealth: {rise: 0}"), Err(ConfigError::Value(_))));
    for key in [
        "limits: {max_body_bytes",
        "limits: {max_buffered_bytes",
        "limits: {header_timeout_s",
        "limits: {body_timeout_s",
        "limits: {idle_timeout_s",
        "limits: {connect_timeout_s",
        "limits: {response_timeout_s",
        "limits: {stream_timeout_s",
        "checks: {fast_interval_s",
        "checks: {timeout_s",
    ] {
        let error = read(&format!("replicas: [http://a]\n{key}: 0}}")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{}` is 0", key.replace(": {", "."))), "{error}");
        read(&format!("replicas: [http://a]\n{key}: 1}}")).unwrap();
    }
    read("replicas: [http://a]\nlimits: {upstream_idle_s: 0, lingering_s: 0}").unwrap();
    for path in ["health", "''", "/a b", "\"/a\\r\\nb\""] {
        let error = read(&format!("replicas: [http://a]\nchecks: {{path: {path}}}")).unwrap_err().to_string();
        assert!(error.starts_with("`checks.path` is `"), "{error}");
    }
    let half = read("replicas: [http://a]\ntls: {certificate: a.pem}").unwrap_err().to_string();
    assert!(half.starts_with("tls.certificate and tls.key"), "{half}");
    let low = "replicas: [http://a]\npolicy: {prefix_hash: {load_factor_percent: 50}}";
    assert!(read(low).unwrap_err().to_string().contains("load_factor_percent"));
}

#[test]
fn helps_tell_the_defaults_in_force() {
    let sections = [LimitConfig::helps(), CheckConfig::helps(), HealthConfig::helps(), RetryConfig::helps()];
    for (help, value) in sections.concat() {
        let told = help.rsplit_once("[default: ").unwrap().1.strip_suffix(']').unwrap();
        let value = value.trim_matches('"').trim_end_matches('s');
        assert_eq!(told, value, "{help}");
    }
}
