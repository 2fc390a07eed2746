"""Stand-ins for what the five products do themselves: everything that is not about keys. Their
pages do not describe it, so paths of generations, prices, models and answers are made up."""

MODELS = ["llama"]


def facts(request):
    """What a product's server knows of a request before it is let through."""
    match request["keyspace"], request["method"], parts(request):
        case "rimp", "POST", ["v1", "comparisons"]:
            is_of_images = "videos" not in content(request)
            return {"variant": "image-only" if is_of_images else None, "spend": 2}
        case "rimp", "POST", ["v1", "images" | "videos"]:
            return {"variant": None, "spend": 2}
        case "clipia", "POST", ["v1", "models", _]:
            return {"variant": None, "spend": 3}
    return {"variant": None, "spend": 0}


async def answer(database, request):
    """The status and the body, for a request that keysmith let through and did not handle."""
    async def row(statement, *parameters):
        return await (await database.execute(statement, parameters)).fetchone()

    match request["keyspace"], request["method"], parts(request):
        case "ryvion", "GET", ["v1", "models"]:
            return 200, {"object": "list", "data": [
                {"id": model, "object": "model", "created": 0, "owned_by": "ryvion"} for model in MODELS]}
        case "ryvion", "POST", ["v1", "chat", "completions"]:
            said = content(request)["messages"][-1]["content"]
            return 200, {
                "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": MODELS[0],
                "choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": f"You said: {said}"}}]}
        case "ryvion", "POST", ["mcp"]:
            return 200, {"jsonrpc": "2.0", "id": content(request)["id"], "result": {
                "protocolVersion": "2025-06-18", "capabilities": {},
                "serverInfo": {"name": "ryvion", "version": "0"}}}
        case "clipia", "POST", ["v1", "models", model]:
            # The table is isolated: it has the rows of the key's account.
            made = await row("INSERT INTO generation (model, is_mock) VALUES (%s,"
                             " keysmith.current_environment() = 'test') RETURNING id", model)
            return 201, {"id": made.id}
        case "clipia", "GET", ["v1", "requests", generation]:
            found = await row("SELECT id, model, is_mock FROM generation WHERE id::text = %s", generation)
            if found is None:
                return 404, {"code": "not_found", "message": "There is no such generation."}
            return 200, {"id": found.id, "model": found.model, "mock": found.is_mock}
    who = await row("SELECT keysmith.current_tenant() AS tenant, keysmith.current_environment() AS env")
    return 200, {"stand_in": True, "tenant": who.tenant, "environment": who.env}


def parts(request):
    return request["path"].partition("?")[0].strip("/").split("/")


def content(request):
    """The fields of the body."""
    body = request["body"]
    return body.obj if body is not None and isinstance(body.obj, dict) else {}
