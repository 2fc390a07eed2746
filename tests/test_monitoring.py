"""keysmith watched by the real Prometheus, by the files of examples/monitoring."""

import re

import psycopg
import pytest

import monitoring
from cluster import running
from conftest import session, wait_until

pytestmark = pytest.mark.skipif(
    bool(monitoring.missing()),
    reason=f"these are not there: {', '.join(monitoring.missing())}; run scripts/setup.sh monitoring")

# Beside the metrics of the view: what the exporter and Prometheus say, and the exporter's hourly job.
OTHERS = {"up", "sql_exporter_last_scrape_failed", "keysmith_audit_broken_chains", "keysmith_doctor_findings"}
# Labels by which Prometheus tells servers apart.
PLACES = {"instance", "database", "job"}


@pytest.fixture(scope="module")
def servers():
    """A primary with requests of all kinds, and a standby."""
    with running("primary") as primary:
        primary.execute("CREATE DATABASE app")
        primary.execute("CREATE EXTENSION keysmith", "app")
        monitoring.prepare(primary)
        db = session(primary, "app")
        db.tenant()
        limited = db.mint(limits='[{"name": "minute", "limit": 1, "window": "1 hour"}]')
        db.rows("CREATE TABLE document (id int, tenant_id uuid)")
        db.rows("SELECT keysmith.isolate('document', 'tenant_id')")
        db.rows("CREATE ROLE owner")
        db.rows("ALTER TABLE document OWNER TO owner")
        db.verify(limited.api_key)
        assert db.reason(limited.api_key) == "rate_limited"
        db.verify("ks_live_nobody")
        db.rows("SELECT keysmith.flush_usage()")
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            db.session.close()
            yield {"primary": primary, "standby": standby}
        finally:
            standby.remove()


@pytest.fixture(scope="module")
def watched(servers):
    with monitoring.running(servers) as watched:
        yield watched


def seen(cluster):
    """What the exporter's role sees in the view: values by name and labels."""
    with cluster.connect("app", password=monitoring.PASSWORD, user=monitoring.ROLE) as connection:
        return {(name, frozenset(labels.items())): value for name, labels, value in connection.execute(
            "SELECT name, labels, value FROM keysmith.metrics WHERE value IS NOT NULL")}


def stored(watched, instance):
    """What Prometheus has stored of an instance, in the same form."""
    found = {}
    for labels, value in watched.series(f'{{__name__=~"keysmith_.*", instance="{instance}"}}').items():
        labels = dict(labels)
        name = labels.pop("__name__")
        assert labels["database"] == "app" and labels["job"] == "keysmith"
        found[name, frozenset((label, text) for label, text in labels.items() if label not in PLACES)] = value
    return {key: value for key, value in found.items() if key[0] not in OTHERS}


def names_of(cluster):
    return {name for name, in cluster.execute("SELECT name FROM keysmith_private.metric_help", "app")}


def metrics_in(expression):
    """The names of metrics in an expression."""
    return set(re.findall(r"\b(?:keysmith|sql_exporter|up)[a-z_]*(?=[{\[ )]|$)", expression))


@pytest.mark.parametrize("instance", ["primary", "standby"])
def test_prometheus_stores_the_view_by_its_own_names(servers, watched, instance):
    """Ages change between the two readings, so only their names and labels are compared."""
    def differences():
        view, series = seen(servers[instance]), stored(watched, instance)
        return {key: (view.get(key), series.get(key)) for key in view.keys() | series.keys()
                if key not in view or key not in series
                or not key[0].endswith("_seconds") and view[key] != series[key]}

    wait_until(lambda: not differences())
    found = stored(watched, instance)
    assert found["keysmith_standby", frozenset()] == (instance == "standby")
    if instance == "primary":
        assert found["keysmith_decisions_total", frozenset({("outcome", "rate_limited")})] == 1
        assert found["keysmith_decisions_total", frozenset({("outcome", "ok")})] == 1
        assert any(name == "keysmith_replication_lag_bytes" and dict(labels)["state"] == "streaming"
                   for name, labels in found)


def test_the_hourly_job_reports_the_checks(servers, watched):
    counts = dict(servers["primary"].execute("SELECT level, count(*) FROM keysmith.doctor() GROUP BY level", "app"))

    def of(expression):
        return {dict(labels).get("level"): value for labels, value in watched.series(expression).items()}

    wait_until(lambda: of('keysmith_doctor_findings{instance="primary"}'))
    assert of('keysmith_doctor_findings{instance="primary"}') == {
        level: counts.get(level, 0) for level in ("error", "warning")}
    assert of('keysmith_audit_broken_chains{instance="primary"}') == {None: 0}


def test_an_alarm_becomes_an_alert_and_ends(servers, watched):
    primary, alert = servers["primary"], ("KeysmithIsolationError", "primary")
    wait_until(lambda: watched.series("keysmith_info"))
    assert alert not in watched.firing()
    primary.execute("ALTER TABLE document DISABLE ROW LEVEL SECURITY", "app")
    wait_until(lambda: alert in watched.firing())
    primary.execute("ALTER TABLE document ENABLE ROW LEVEL SECURITY", "app")
    wait_until(lambda: alert not in watched.firing())


def test_a_query_that_fails_is_reported(servers, watched):
    """The exporter goes on showing the old values."""
    def failed():
        return {dict(labels)["query"] for labels, value in watched.series(
            'sql_exporter_last_scrape_failed{instance="primary"}').items() if value == 1}

    wait_until(lambda: watched.series('sql_exporter_last_scrape_failed{instance="primary"}'))
    assert not failed()
    primary = servers["primary"]
    primary.execute(f"SELECT keysmith.revoke_access('{monitoring.ROLE}')", "app")
    wait_until(lambda: failed() == {"keysmith"})
    assert watched.series('keysmith_info{instance="primary"}')
    primary.execute(f"SELECT keysmith.grant_access('{monitoring.ROLE}', 'auditor')", "app")
    wait_until(lambda: not failed())


def test_the_exporters_role_changes_nothing(servers):
    with servers["primary"].connect("app", user=monitoring.ROLE, password=monitoring.PASSWORD) as connection:
        for statement in ("SELECT keysmith.mint('acme')", "SELECT keysmith.grant_access('postgres', 'admin')",
                          "SELECT * FROM keysmith.verify('ks_live_nobody')", "SELECT * FROM keysmith_private.key"):
            with pytest.raises(psycopg.errors.Error, match="permission denied|no access"):
                connection.execute(statement)
    with pytest.raises(psycopg.OperationalError, match="password"):
        servers["primary"].connect("app", user=monitoring.ROLE)


def test_prometheus_accepts_the_configuration_and_the_rules():
    for arguments in (("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"),
                      ("test", "rules", "alerts_test.yml")):
        code, output = monitoring.promtool(*arguments)
        assert code == 0 and "FAILED" not in output, output


def rules():
    """The expressions of the rules, and the alarms that they are for, by name."""
    text = (monitoring.EXAMPLES / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (.*)\n(?: +for: .*\n)? +labels: {severity: (?:warning|critical)"
                       r"(?:, alarm: (\w+))?}\n +annotations:\n +summary: .*\n +description: ", text)
    assert len(found) == text.count("- alert:")
    return {name: (expression, alarm) for name, expression, alarm in found}


def test_each_alarm_has_a_rule_and_each_rule_is_tested(servers):
    alarms = [alarm for alarm, in servers["primary"].execute("SELECT alarm FROM keysmith.alarms", "app")]
    assert sorted(alarm for _, alarm in rules().values() if alarm) == sorted(alarms)
    known = names_of(servers["primary"]) | OTHERS
    tests = (monitoring.EXAMPLES / "alerts_test.yml").read_text()
    for name, (expression, alarm) in rules().items():
        assert metrics_in(expression) and metrics_in(expression) <= known, expression
        assert alarm in expression or expression.startswith("increase("), expression
        expected = re.findall(rf'{{expr: \'count\(ALERTS{{alertname="{name}", alertstate="firing"}}\)\', '
                              r"eval_time: \w+(, exp_samples: \[{value: 1}\])?}", tests)
        assert "" in expected and any(expected), f"{name} is not tested, silent and firing"


def test_the_dashboard_shows_metrics_that_exist(servers, watched):
    board = monitoring.dashboard()
    assert board["schemaVersion"] >= 36 and board["uid"] and board["title"]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not place & places, panel["title"]
        places |= place
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    wait_until(lambda: watched.ask("query", query="up"))
    for expression in expressions:
        # A variable that the dashboard lacks, or an error, is an answer of 400.
        watched.ask("query", query=monitoring.filled(expression))
        assert "$" not in monitoring.filled(expression)
    named = set().union(*map(metrics_in, expressions))
    known = names_of(servers["primary"])
    assert named <= known | OTHERS
    # Others say what the server is, or are alarms.
    assert known - named == {
        "keysmith_info", "keysmith_preloaded", "keysmith_standby", "keysmith_subscriber", "keysmith_subscription_stopped",
        "keysmith_failures_uncounted_total", "keysmith_unsettled_lost_total", "keysmith_pepper_file_problem", "keysmith_signing_key_file_problem", "keysmith_usage_worker_running", "keysmith_usage_last_flush_timestamp_seconds"}
