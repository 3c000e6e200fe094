// The handlers of this worker. These do what docs/worker-contract.md asks of a worker that is tested: replace them by yours.

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonSyntaxException;
import com.google.gson.Strictness;
import com.google.gson.stream.JsonReader;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.UUID;

final class Main {
    public static void main(String[] arguments) throws Exception {
        new Tide(Main::handle).run();
    }

    static byte[] handle(Tide.Request request) throws Exception {
        JsonObject task = task(request.body());
        if (task == null) return request.body();
        int times = task.has("times") ? task.get("times").getAsInt() : Integer.MAX_VALUE;
        switch (task.get("do").getAsString()) {
            case "echo":
                return json(task.get("data"));
            case "sleep":
                Thread.sleep(task.get("ms").getAsLong());
                return json("{\"slept\":" + task.get("ms") + "}");
            case "stamp":
                return json("\"" + UUID.randomUUID() + "\"");
            case "fail":
                if (request.attempt < times) throw new IllegalStateException("asked to fail");
                return json("{\"attempt\":" + request.attempt + "}");
            case "crash":
                if (request.attempt < times) Runtime.getRuntime().halt(1);
                return json("{\"attempt\":" + request.attempt + "}");
            case "reject":
                throw new Tide.Reject(task.get("code").getAsInt(), task.get("message").getAsString());
            case "large":
                byte[] body = new byte[task.get("bytes").getAsInt()];
                Arrays.fill(body, (byte) 'x');
                return body;
            default:
                throw new Tide.Reject(400, "unknown task " + task.get("do"));
        }
    }

    /** The task in a body, or null if it is none. */
    private static JsonObject task(byte[] body) {
        try {
            JsonReader reader = new JsonReader(new StringReader(new String(body, StandardCharsets.UTF_8)));
            reader.setStrictness(Strictness.STRICT);
            var value = JsonParser.parseReader(reader);
            return value.isJsonObject() && value.getAsJsonObject().has("do") ? value.getAsJsonObject() : null;
        } catch (JsonSyntaxException | com.google.gson.JsonIOException noJson) {
            return null;
        }
    }

    private static byte[] json(Object value) {
        return value.toString().getBytes(StandardCharsets.UTF_8);
    }
}
