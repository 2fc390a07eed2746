"""Web `Request` and `Response`: the promises by real HTTP, and work without a request."""

from node_contract import credits
from node_project import Project, url
from test_node_hono import OfWeb


class TestWeb(OfWeb):
    program = "web.mjs"

    def test_work_that_is_no_request(self, cluster, place, admin, tmp_path):
        admin.call("add_credits", 100, tenant="acme")
        before = credits(admin)
        project = Project(tmp_path, "node_apps", url(cluster, place, "web"))
        project.environment |= {"KEY": admin.mint("acme", scopes=["photos:*"]).api_key}
        printed = [line for line in project.run("node", "job.mjs").splitlines() if not line.startswith("keysmith: ")]
        assert printed == ["acme 1", "Refused 401 invalid_api_key Bearer", "Refused 403 insufficient_scope Bearer", "a bug", "KS403 403",
                           "Refused 503 unavailable undefined", "1 row"]
        assert credits(admin) == before - 7
