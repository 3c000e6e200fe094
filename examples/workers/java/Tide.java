// A worker of one Tidegate route: version 1 of docs/worker-contract.md, step by step. Your handlers are in Main.java.

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.nats.client.*;
import io.nats.client.api.PublishAck;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicBoolean;

final class Tide {
    static final String USER = env("NATS_USER", "worker");
    static final String PREFIX = env("TIDE_PREFIX", "tide");
    static final String ROUTE = env("TIDE_ROUTE", "conformance");
    static final String SERVICE = env("TIDE_SERVICE", "default");
    static final int MAX_ATTEMPTS = Integer.parseInt(env("TIDE_MAX_ATTEMPTS", "5"));
    static final int CONCURRENCY = Integer.parseInt(env("TIDE_CONCURRENCY", "32"));
    static final Duration TIMEOUT = Duration.ofSeconds(30); // one attempt: the route's `timeout`
    static final Duration ANSWER_TIMEOUT = Duration.ofSeconds(4); // how long a caller waits: gateway.answer_timeout
    static final int ANSWER_MAX_BYTES = 256 * 1024; // the longest answer that is stored: streams.answer_max_bytes
    static final long BACKOFF_BASE = 300, BACKOFF_CAP = 600_000; // milliseconds
    static final Duration DRAIN = Duration.ofSeconds(25);
    static final int DEAD_LETTER = 1004;

    /** Returns the body of the answer. An exception means: try again later; Reject tells the caller. */
    interface Handler {
        byte[] handle(Request request) throws Exception;
    }

    /** The caller gets this error; the request is not tried again. */
    static final class Reject extends Exception {
        final int code;

        Reject(int code, String message) {
            super(message);
            this.code = code;
        }
    }

    /** The answer is longer than may be stored or sent. */
    static final class TooLarge extends Exception {
        TooLarge(int bytes, long limit) {
            super("the answer has " + bytes + " bytes, and at most " + limit + " fit");
        }
    }

    record Answer(Headers headers, byte[] body) {}

    /** One delivered message, read. */
    static final class Request {
        final Message message;
        final Headers own;
        final String id, user, place;
        final int attempt, lost, suspect;
        final boolean keyed, stored, parked, exposed;

        Request(Message message) {
            this.message = message;
            own = own(message.getHeaders());
            id = header("Tide-Id", "");
            user = header("Tide-User", null);
            var meta = message.metaData();
            parked = meta.getStream().equals("TIDE_PARK");
            place = (parked ? "p" : "i") + meta.streamSequence();
            lost = (int) meta.deliveredCount() - 1;
            // 1: its worker ended once, 2: twice, so it is tried alone. Only then a lost delivery counts, the first excepted.
            suspect = number(header("Tide-Suspect", ""));
            int failed = number(header("Tide-Attempt", ""));
            attempt = failed + (suspect == 2 ? Math.max(0, lost - 1) : 0);
            exposed = suspect == 2 && lost > 0; // one more loss counts as an attempt
            keyed = id.startsWith("k.");
            stored = keyed || has("Tide-Later");
        }

        byte[] body() {
            return message.getData() == null ? new byte[0] : message.getData();
        }

        boolean has(String name) {
            return own.containsKey(name);
        }

        String header(String name, String usual) {
            return has(name) ? own.getFirst(name) : usual;
        }

        /** The subject of the next delivery: the address is the same, the stage is `due`. */
        String due() {
            String rest = message.getSubject().substring(PREFIX.length() + 1);
            return PREFIX + ".due." + rest.substring(rest.indexOf('.') + 1);
        }

        Answer answer(byte[] body) {
            Headers headers = new Headers().put("Tide-Re", id).put("Tide-Status", "ok");
            headers.put("Tide-Attempt", Integer.toString(attempt));
            if (has("Tide-Digest")) headers.put("Tide-Digest", header("Tide-Digest", ""));
            return new Answer(headers, body);
        }

        Answer error(int code, String message) {
            Answer answer = answer(new byte[0]);
            answer.headers.put("Tide-Status", "error").put("Tide-Code", Integer.toString(code));
            answer.headers.put("Tide-Message", line(message));
            return answer;
        }
    }

    private final Handler handler;
    private final ExecutorService attempts = Executors.newCachedThreadPool();
    private final ScheduledExecutorService signs = Executors.newScheduledThreadPool(2);
    /** The requests that were pulled and are not settled. */
    private final Set<Request> running = ConcurrentHashMap.newKeySet();
    /** The attempts that run, by the request's id. */
    private final Map<String, Future<byte[]>> handling = new ConcurrentHashMap<>();
    private final Semaphore alone = new Semaphore(1);
    private final AtomicBoolean stopping = new AtomicBoolean();
    private Connection nats;
    private JetStream js;

    Tide(Handler handler) {
        this.handler = handler;
    }

    void run() throws Exception {
        nats = Nats.connect(new Options.Builder()
                .servers(env("NATS_URL", "nats://127.0.0.1:4222").split(","))
                .userInfo(USER, env("NATS_PASSWORD", "dev-worker"))
                .inboxPrefix("_INBOX_" + USER)
                .supportUTF8Subjects()
                .maxReconnects(-1)
                .build());
        js = nats.jetStream();
        Thread here = Thread.currentThread();
        // The process ends when this hook has returned. halt() sets the code 0, which SIGTERM would hide.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping.set(true);
            try {
                here.join();
            } catch (InterruptedException ended) {
                return;
            }
            Runtime.getRuntime().halt(0);
        }));
        nats.createDispatcher(this::cancel).subscribe(PREFIX + ".cancel.*.*");
        List<Thread> others = new ArrayList<>();
        others.add(new Thread(() -> consume("TIDE_PARK", ROUTE)));
        if (hasFirstLane()) others.add(new Thread(() -> consume("TIDE_IN_" + ROUTE, ROUTE + "-first")));
        others.forEach(Thread::start);
        consume("TIDE_IN_" + ROUTE, ROUTE);
        for (Thread other : others) other.join();
        Instant over = Instant.now().plus(DRAIN);
        while (!running.isEmpty() && Instant.now().isBefore(over)) Thread.sleep(20);
        // What is not finished goes back, and this is no attempt.
        for (Request request : running) park(request, request.attempt, 1000, request.suspect);
        nats.close();
    }

    /** Whether requests of the route may have priority. */
    private boolean hasFirstLane() throws IOException, JetStreamApiException {
        try {
            nats.jetStreamManagement().getConsumerInfo("TIDE_IN_" + ROUTE, ROUTE + "-first");
            return true;
        } catch (JetStreamApiException error) {
            if (error.getApiErrorCode() == 10014) return false;
            throw error;
        }
    }

    /** Ends the handler of a request whose caller does not want the answer any more. */
    private void cancel(Message message) {
        String[] words = message.getSubject().split("\\.");
        Future<byte[]> attempt = handling.get(words[words.length - 2] + "." + words[words.length - 1]);
        if (attempt != null) attempt.cancel(true);
    }

    /** Pulls as many messages as there are free permits, never more. */
    private void consume(String stream, String name) {
        Semaphore permits = new Semaphore(CONCURRENCY);
        while (!stopping.get()) {
            try {
                // Bound by name: other ways to find a consumer read the stream's information, which a worker may not.
                var consumer = js.subscribe(null, PullSubscribeOptions.fastBind(stream, name));
                var info = nats.jetStreamManagement().getConsumerInfo(stream, name);
                long ackWait = info.getConsumerConfiguration().getAckWait().toMillis();
                while (!stopping.get()) {
                    permits.acquire();
                    permits.release();
                    var pulled = consumer.iterate(permits.availablePermits(), Duration.ofSeconds(2));
                    while (pulled.hasNext()) {
                        Request request = new Request(pulled.next());
                        // Here, before a thread begins with it: until then another one must not be tried alone.
                        running.add(request);
                        permits.acquire();
                        attempts.execute(() -> attend(request, ackWait, permits));
                    }
                }
            } catch (Exception error) {
                System.err.println("a pull from " + stream + " failed: " + error);
                pause(1000);
            }
        }
    }

    /** Settles one request, with signs of life meanwhile. */
    private void attend(Request request, long ackWait, Semaphore permits) {
        long sign = ackWait / 3;
        var alive = signs.scheduleAtFixedRate(request.message::inProgress, sign, sign, TimeUnit.MILLISECONDS);
        try {
            settle(request, ackWait);
        } catch (Exception error) {
            // Not settled, so the broker delivers it again after ack_wait.
            System.err.println("a request could not be settled: " + error);
        } finally {
            alive.cancel(false);
            running.remove(request);
            permits.release();
        }
    }

    private void settle(Request request, long ackWait) throws Exception {
        if (!request.id.matches("[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+")) {
            String reason = "the header Tide-Id is missing or malformed";
            storeLetter(request, "unreadable", reason, 0);
            nats.request(request.message.getReplyTo(), ("+TERM " + reason).getBytes(), Duration.ofSeconds(5));
            return;
        }
        if (request.stored || request.attempt > 0 || request.lost > 0 || request.parked) {
            Answer stored = storedAnswer(request);
            if (stored != null) {
                bring(request, stored);
                ack(request);
                return;
            }
        }
        if (request.attempt >= MAX_ATTEMPTS) {
            bury(request, "crashed", "the worker ended during every attempt", request.attempt);
        } else if (request.lost > 0 && request.suspect < 2) {
            park(request, request.attempt, 0, request.suspect + 1);
        } else if (request.suspect < 2) {
            attempt(request);
        } else if (!attemptedAlone(request, ackWait)) {
            // It does not wait here, where it would be lost with the one that is being tried.
            park(request, request.attempt, ThreadLocalRandom.current().nextLong(100, 400), 2);
        }
    }

    /** Runs the handler once if no other request is tried alone, and when no other one here is exposed. */
    private boolean attemptedAlone(Request request, long ackWait) throws Exception {
        if (!alone.tryAcquire()) return false;
        try {
            if (!becomesAlone(request, ackWait)) return false;
            attempt(request);
            return true;
        } finally {
            alone.release();
        }
    }

    /** Waits until no other request here would count an attempt if this one ended the worker: those are parked meanwhile. */
    private boolean becomesAlone(Request request, long ackWait) {
        // Some are on their way. Those that were lost with it are delivered again within the time between two signs of life.
        Instant pulled = Instant.now().plusMillis(200 + (request.exposed ? ackWait / 3 : 0));
        while (Instant.now().isBefore(pulled) || running.stream().anyMatch(other -> other != request && other.exposed)) {
            if (stopping.get() || Instant.now().isAfter(pulled.plusMillis(ackWait))) return false;
            pause(20);
        }
        return true;
    }

    /** Runs the handler once. */
    private void attempt(Request request) throws Exception {
        Future<byte[]> attempt = attempts.submit(() -> handler.handle(request));
        handling.put(request.id, attempt);
        try {
            conclude(request, request.answer(attempt.get(TIMEOUT.toMillis(), TimeUnit.MILLISECONDS)));
        } catch (CancellationException cancelled) {
            giveUp(request);
        } catch (TimeoutException late) {
            attempt.cancel(true);
            retry(request, "timeout", "no answer within " + TIMEOUT, request.attempt + 1);
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof Reject reject) {
                conclude(request, request.error(reject.code, reject.getMessage()));
            } else {
                retry(request, "attempts", String.valueOf(failed.getCause()), request.attempt + 1);
            }
        } finally {
            handling.remove(request.id, attempt);
        }
    }

    /** Settles a cancelled request. Whoever cancels has stored its answer before. */
    private void giveUp(Request request) throws Exception {
        Answer stored = storedAnswer(request);
        if (stored == null) {
            park(request, request.attempt, 1000, request.suspect);
            return;
        }
        bring(request, stored);
        ack(request);
    }

    private void conclude(Request request, Answer answer) throws Exception {
        try {
            bring(request, request.stored ? storeAnswer(request, answer) : answer);
        } catch (TooLarge error) {
            bury(request, "unstorable", error.getMessage(), request.attempt + 1);
            return;
        }
        ack(request);
    }

    /** Stores an answer and returns the one that counts: the first. */
    private Answer storeAnswer(Request request, Answer answer) throws Exception {
        if (answer.body.length > ANSWER_MAX_BYTES) throw new TooLarge(answer.body.length, ANSWER_MAX_BYTES);
        while (true) {
            try {
                js.publish(message(PREFIX + ".reply." + request.id, answer.headers, answer.body));
                return answer;
            } catch (JetStreamApiException refused) {
                if (refused.getMessage().contains("per subject")) {
                    Answer stored = storedAnswer(request);
                    return stored == null ? answer : stored;
                }
                // "maximum bytes": the result cache is full until answers expire.
            } catch (IOException unacknowledged) {
                // Again: the subject takes one message.
            }
            pause(1000);
        }
    }

    private Answer storedAnswer(Request request) throws Exception {
        String subject = "$JS.API.DIRECT.GET.TIDE_REPLY." + PREFIX + ".reply." + request.id;
        Message reply = nats.request(subject, new byte[0], Duration.ofSeconds(5));
        if (reply == null) throw new IOException("the broker does not say whether there is an answer");
        if (reply.isStatusMessage()) return null;
        return new Answer(own(reply.getHeaders()), reply.getData() == null ? new byte[0] : reply.getData());
    }

    /** Brings an answer to the client. It is stored already, or handed to the gateway. */
    private void bring(Request request, Answer answer) throws Exception {
        if (request.keyed) nats.publish(message(PREFIX + ".answer." + request.id, answer.headers, answer.body));
        if (request.has("Tide-Later")) publishToUser(request, answer);
        if (request.has("Tide-Method") && !request.stored) handOver(request, answer);
    }

    private void handOver(Request request, Answer answer) throws Exception {
        long limit = nats.getMaxPayload();
        if (answer.body.length + 4096 > limit) throw new TooLarge(answer.body.length, limit);
        long now = System.currentTimeMillis();
        long accepted = Long.parseLong(request.header("Tide-Accepted-At", Long.toString(now)));
        long over = Math.min(accepted, now) + ANSWER_TIMEOUT.toMillis() + 500;
        boolean kept = false;
        for (int asked = 1; ; asked++) {
            Message question = message(PREFIX + ".answer." + request.id, answer.headers, answer.body);
            Message reply = nats.request(question, Duration.ofSeconds(1));
            String word = reply == null || reply.getData() == null ? "" : new String(reply.getData());
            if (word.equals("taken") || word.equals("known")) return;
            if (word.equals("late") || asked > 1 && System.currentTimeMillis() > over) {
                publishToUser(request, answer);
                return;
            }
            if (!kept && answer.body.length <= ANSWER_MAX_BYTES) {
                storeAnswer(request, answer);
                kept = true;
            }
            pause(300);
        }
    }

    private void publishToUser(Request request, Answer answer) throws Exception {
        if (request.user == null) return;
        String status = answer.headers.getFirst("Tide-Status");
        byte[] body = answer.body;
        if (status.equals("error")) {
            JsonObject told = new JsonObject();
            told.addProperty("code", Integer.parseInt(answer.headers.getFirst("Tide-Code")));
            told.addProperty("message", answer.headers.getFirst("Tide-Message"));
            if (body.length > 0) told.add("data", JsonParser.parseString(new String(body, StandardCharsets.UTF_8)));
            body = told.toString().getBytes(StandardCharsets.UTF_8);
        }
        String id = request.id + ".l" + (request.has("Tide-Redriven") ? ".d" + request.header("Tide-Redriven", "") : "");
        Headers headers = new Headers().put("Nats-Msg-Id", id);
        headers.put("Tide-Tag-re", request.id).put("Tide-Tag-status", status);
        store(PREFIX + ".ch.user." + token(request.user), headers, body);
    }

    private void retry(Request request, String reason, String error, int failed) throws Exception {
        if (failed >= MAX_ATTEMPTS) {
            bury(request, reason, error, failed);
            return;
        }
        double delay = Math.min(BACKOFF_CAP, BACKOFF_BASE * Math.pow(2, failed - 1));
        park(request, failed, (long) (delay * ThreadLocalRandom.current().nextDouble(0.5, 1)), 0);
    }

    /** Stores the request for its next delivery, then acknowledges this one. */
    private void park(Request request, int attempt, long delay, int suspect) throws Exception {
        Instant due = Instant.now().plusMillis(delay).truncatedTo(ChronoUnit.MILLIS);
        Headers headers = own(request.own);
        headers.remove("Tide-Suspect");
        if (suspect > 0) headers.put("Tide-Suspect", Integer.toString(suspect));
        headers.put("Nats-Msg-Id", request.id + ".a" + attempt + "." + request.place);
        headers.put("Nats-Schedule", "@at " + due);
        headers.put("Nats-Schedule-Target", request.due());
        headers.put("Tide-Attempt", Integer.toString(attempt));
        store(PREFIX + ".park." + request.id, headers, request.body());
        ack(request);
    }

    /** Stores a dead letter, tells the client, and acknowledges. */
    private void bury(Request request, String reason, String failure, int attempts) throws Exception {
        storeLetter(request, reason, failure, attempts);
        Answer error = request.error(DEAD_LETTER, "failed for good, kept as a dead letter: " + attempts + " attempts");
        bring(request, request.stored ? storeAnswer(request, error) : error);
        ack(request);
    }

    private void storeLetter(Request request, String reason, String failure, int attempts) throws Exception {
        String id = (request.id.isEmpty() ? ROUTE : request.id) + ".dead." + request.place;
        Headers headers = own(request.own).put("Nats-Msg-Id", id).put("Tide-Dead-Reason", reason);
        headers.put("Tide-Dead-Error", line(failure)).put("Tide-Dead-Attempts", Integer.toString(attempts));
        headers.put("Tide-Dead-Subject", request.message.getSubject());
        store(PREFIX + ".dead." + token(SERVICE) + "." + token(ROUTE), headers, request.body());
    }

    /** Stores a message, for as long as it takes: its id makes repetitions harmless. */
    private PublishAck store(String subject, Headers headers, byte[] body) throws Exception {
        while (true) {
            try {
                return js.publish(message(subject, headers, body));
            } catch (IOException unacknowledged) {
                pause(300);
            }
        }
    }

    /** The double ack: the broker confirms it. */
    private static void ack(Request request) throws InterruptedException {
        for (int tries = 0; tries < 5; tries++) {
            try {
                request.message.ackSync(Duration.ofSeconds(1));
                return;
            } catch (TimeoutException unconfirmed) {
                // Again.
            }
        }
    }

    private static Message message(String subject, Headers headers, byte[] body) {
        return NatsMessage.builder().subject(subject).headers(headers).data(body).build();
    }

    /** A name as one token of a subject. */
    static String token(String name) throws Exception {
        byte[] bytes = name.getBytes(StandardCharsets.UTF_8);
        StringBuilder text = new StringBuilder();
        for (byte b : bytes) {
            if (b == '_' || b == '-' || b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z') {
                text.append((char) b);
            } else {
                text.append(String.format("=%02X", b));
            }
        }
        if (text.length() <= 120) return text.isEmpty() ? "=" : text.toString();
        // Base32hex: 52 digits of five bits, the last filled up with zeros.
        BigInteger digest = new BigInteger(1, MessageDigest.getInstance("SHA-256").digest(bytes)).shiftLeft(4);
        String digits = digest.toString(32);
        return "=h" + "0".repeat(52 - digits.length()) + digits;
    }

    /** A copy of the headers without those that the broker interprets. */
    private static Headers own(Headers all) {
        Headers own = new Headers();
        if (all != null) {
            all.entrySet().stream()
                    .filter(entry -> !entry.getKey().toLowerCase().startsWith("nats-"))
                    .forEach(entry -> own.put(entry.getKey(), entry.getValue()));
        }
        return own;
    }

    /** A text on one line, short enough for a header. */
    private static String line(String text) {
        String line = text.replaceAll("\\s+", " ").strip();
        return line.substring(0, Math.min(line.length(), 1024));
    }

    private static int number(String text) {
        return text.matches("[0-9]{1,9}") ? Integer.parseInt(text) : 0;
    }

    private static void pause(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    private static String env(String name, String usual) {
        return System.getenv().getOrDefault(name, usual);
    }
}
