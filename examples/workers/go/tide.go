// A worker of one Tidegate route: version 1 of docs/worker-contract.md, step by step. Your handlers are in main.go.

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	natsURL      = env("NATS_URL", "nats://127.0.0.1:4222")
	natsUser     = env("NATS_USER", "worker")
	natsPassword = env("NATS_PASSWORD", "dev-worker")
	prefix       = env("TIDE_PREFIX", "tide")
	route        = env("TIDE_ROUTE", "conformance")
	service      = env("TIDE_SERVICE", "default")
	maxAttempts  = number(env("TIDE_MAX_ATTEMPTS", "5"), 5)
	concurrency  = number(env("TIDE_CONCURRENCY", "32"), 32)
)

const (
	attemptTimeout = 30 * time.Second // the route's `timeout`
	answerTimeout  = 4 * time.Second  // how long a caller waits: gateway.answer_timeout
	answerMaxBytes = 256 * 1024       // the longest answer that is stored: streams.answer_max_bytes
	backoffBase    = 300 * time.Millisecond
	backoffCap     = 10 * time.Minute
	drainTimeout   = 25 * time.Second
	deadLetter     = 1004
)

// Reject is an error for the caller; the request is not tried again.
type Reject struct {
	Code    int
	Message string
}

func (r Reject) Error() string { return r.Message }

// errTooLarge: the answer is longer than may be stored or sent.
var errTooLarge = errors.New("the answer is too large")

// errCancelled: the caller does not want the answer any more.
var errCancelled = errors.New("cancelled")

// Request is one delivered message, read.
type Request struct {
	ID, User, place               string
	Body                          []byte
	Attempt, lost, suspect        int
	keyed, later, stored, awaited bool
	parked, hasUser, exposed      bool
	own                           nats.Header
	acceptedAt                    time.Time
	msg                           jetstream.Msg
}

// Answer is what a client gets.
type Answer struct {
	headers nats.Header
	body    []byte
}

// Handler returns the body of the answer. An error means: try again later; Reject tells the caller.
type Handler func(context.Context, *Request) ([]byte, error)

var validID = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

func read(msg jetstream.Msg) (*Request, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	r := &Request{Body: msg.Data(), msg: msg, own: own(msg.Headers()), lost: int(meta.NumDelivered) - 1}
	r.ID, r.User = r.own.Get("Tide-Id"), r.own.Get("Tide-User")
	_, r.hasUser = r.own["Tide-User"]
	r.Attempt = number(r.own.Get("Tide-Attempt"), 0)
	// 1: its worker ended once, 2: twice, so it is tried alone. Only then a lost delivery counts, the first excepted.
	if r.suspect = number(r.own.Get("Tide-Suspect"), 0); r.suspect == 2 {
		r.Attempt += max(0, r.lost-1)
		r.exposed = r.lost > 0 // one more loss counts as an attempt
	}
	r.parked = meta.Stream == "TIDE_PARK"
	r.place = "i" + strconv.FormatUint(meta.Sequence.Stream, 10)
	if r.parked {
		r.place = "p" + r.place[1:]
	}
	r.keyed = strings.HasPrefix(r.ID, "k.")
	r.later = r.own.Get("Tide-Later") != ""
	r.stored = r.keyed || r.later
	r.awaited = r.own.Get("Tide-Method") != ""
	r.acceptedAt = time.Now()
	if at := number(r.own.Get("Tide-Accepted-At"), 0); at > 0 {
		r.acceptedAt = time.UnixMilli(int64(at))
	}
	return r, nil
}

// due is the subject of the next delivery: the address is the same, the stage is `due`.
func (r *Request) due() string {
	_, address, _ := strings.Cut(strings.TrimPrefix(r.msg.Subject(), prefix+"."), ".")
	return prefix + ".due." + address
}

func (r *Request) answer(body []byte) Answer {
	headers := nats.Header{"Tide-Re": {r.ID}, "Tide-Status": {"ok"}, "Tide-Attempt": {strconv.Itoa(r.Attempt)}}
	if digest := r.own.Get("Tide-Digest"); digest != "" {
		headers.Set("Tide-Digest", digest)
	}
	return Answer{headers, body}
}

func (r *Request) error(code int, message string) Answer {
	answer := r.answer(nil)
	answer.headers.Set("Tide-Status", "error")
	answer.headers.Set("Tide-Code", strconv.Itoa(code))
	answer.headers.Set("Tide-Message", line(message))
	return answer
}

// Worker pulls the requests of a route and settles them.
type Worker struct {
	handler  Handler
	nc       *nats.Conn
	js       jetstream.JetStream
	running  sync.WaitGroup
	handling sync.Map // the requests whose handlers run, by id, each with what cancels it
	alone    sync.Mutex
	exposed  atomic.Int32 // requests that were pulled, are not settled, and would count an attempt if they were lost
	stopping context.Context
	cutOff   context.Context
}

// Run works until SIGTERM, then finishes what it has begun.
func (w *Worker) Run() error {
	var err error
	w.nc, err = nats.Connect(natsURL, nats.UserInfo(natsUser, natsPassword),
		nats.CustomInboxPrefix("_INBOX_"+natsUser), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer w.nc.Close()
	if w.js, err = jetstream.New(w.nc); err != nil {
		return err
	}
	w.stopping, _ = signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	var cut context.CancelFunc
	w.cutOff, cut = context.WithCancel(context.Background())
	defer cut()
	var pulls sync.WaitGroup
	if _, err := w.nc.Subscribe(prefix+".cancel.*.*", w.cancel); err != nil {
		return err
	}
	consumers := [][2]string{{"TIDE_IN_" + route, route}, {"TIDE_PARK", route}}
	if first, err := w.hasFirstLane(); err != nil {
		return err
	} else if first {
		consumers = append(consumers, [2]string{"TIDE_IN_" + route, route + "-first"})
	}
	for _, consumer := range consumers {
		pulls.Go(func() { w.consume(consumer[0], consumer[1]) })
	}
	pulls.Wait()
	time.AfterFunc(drainTimeout, cut)
	w.running.Wait()
	return nil
}

// hasFirstLane says whether requests of the route may have priority.
func (w *Worker) hasFirstLane() (bool, error) {
	_, err := w.js.Consumer(context.Background(), "TIDE_IN_"+route, route+"-first")
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	return err == nil, err
}

// cancel ends the handler of a request whose caller does not want the answer any more.
func (w *Worker) cancel(msg *nats.Msg) {
	words := strings.Split(msg.Subject, ".")
	if cancel, found := w.handling.Load(strings.Join(words[len(words)-2:], ".")); found {
		cancel.(context.CancelCauseFunc)(errCancelled)
	}
}

// consume pulls as many messages as there are free permits, never more.
func (w *Worker) consume(stream, name string) {
	permits := make(chan struct{}, concurrency)
	for w.stopping.Err() == nil {
		consumer, err := w.js.Consumer(context.Background(), stream, name)
		for err == nil && w.stopping.Err() == nil {
			permits <- struct{}{}
			<-permits
			err = w.pull(consumer, permits)
		}
		if err != nil {
			log.Printf("a pull from %s failed: %v", stream, err)
			time.Sleep(time.Second)
		}
	}
}

func (w *Worker) pull(consumer jetstream.Consumer, permits chan struct{}) error {
	batch, err := consumer.Fetch(concurrency-len(permits), jetstream.FetchMaxWait(2*time.Second))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		request, err := read(msg)
		if err != nil {
			log.Printf("a message is no request: %v", err)
			continue
		}
		permits <- struct{}{}
		if request.exposed {
			w.exposed.Add(1)
		}
		w.running.Go(func() {
			defer func() { <-permits }()
			w.attend(request, consumer.CachedInfo().Config.AckWait)
			if request.exposed {
				w.exposed.Add(-1)
			}
		})
	}
	return batch.Error()
}

// attend settles one request, with signs of life meanwhile.
func (w *Worker) attend(r *Request, ackWait time.Duration) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(ackWait / 3):
				_ = r.msg.InProgress()
			}
		}
	}()
	if err := w.settle(r, ackWait); err != nil {
		// Not settled, so the broker delivers it again after ack_wait.
		log.Printf("a request could not be settled: %v", err)
	}
}

func (w *Worker) settle(r *Request, ackWait time.Duration) error {
	if !validID.MatchString(r.ID) {
		reason := "the header Tide-Id is missing or malformed"
		if err := w.storeLetter(r, "unreadable", reason, 0); err != nil {
			return err
		}
		return r.msg.TermWithReason(reason)
	}
	if r.stored || r.Attempt > 0 || r.lost > 0 || r.parked {
		answer, err := w.storedAnswer(r)
		if err != nil {
			return err
		}
		if answer != nil {
			if err := w.bring(r, *answer); err != nil {
				return err
			}
			return w.ack(r)
		}
	}
	switch {
	case r.Attempt >= maxAttempts:
		return w.bury(r, "crashed", "the worker ended during every attempt", r.Attempt)
	case r.lost > 0 && r.suspect < 2:
		return w.park(r, r.Attempt, 0, r.suspect+1)
	case r.suspect < 2:
		return w.try(r)
	case w.alone.TryLock():
		defer w.alone.Unlock()
		if w.becomesAlone(r, ackWait) {
			return w.try(r)
		}
	}
	// It does not wait here, where it would be lost with the one that is being tried.
	return w.park(r, r.Attempt, 100*time.Millisecond+rand.N(300*time.Millisecond), 2)
}

// becomesAlone waits until no other request here would count an attempt if this one ended the worker: those are parked meanwhile.
func (w *Worker) becomesAlone(r *Request, ackWait time.Duration) bool {
	// Some are on their way. Those that were lost with it are delivered again within the time between two signs of life.
	pulled, own := time.Now().Add(200*time.Millisecond), int32(0)
	if r.exposed {
		pulled, own = pulled.Add(ackWait/3), 1
	}
	for time.Now().Before(pulled) || w.exposed.Load() > own {
		if w.stopping.Err() != nil || time.Since(pulled) > ackWait {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// try runs the handler once, and settles the request as it says.
func (w *Worker) try(r *Request) error {
	body, err := w.attempt(r)
	var reject Reject
	switch {
	case errors.As(err, &reject):
		return w.conclude(r, r.error(reject.Code, reject.Message))
	case errors.Is(err, errCancelled):
		return w.giveUp(r)
	case w.cutOff.Err() != nil:
		// The drain is over: the request goes back, and this is no attempt.
		return w.park(r, r.Attempt, time.Second, r.suspect)
	case err != nil:
		return w.retry(r, "attempts", err.Error(), r.Attempt+1)
	}
	return w.conclude(r, r.answer(body))
}

// giveUp settles a cancelled request. Whoever cancels has stored its answer before.
func (w *Worker) giveUp(r *Request) error {
	answer, err := w.storedAnswer(r)
	if err != nil {
		return err
	}
	if answer == nil {
		return w.park(r, r.Attempt, time.Second, r.suspect)
	}
	if err := w.bring(r, *answer); err != nil {
		return err
	}
	return w.ack(r)
}

// attempt runs the handler, at most for the time of one attempt. A panic is an error.
func (w *Worker) attempt(r *Request) ([]byte, error) {
	cancellable, cancel := context.WithCancelCause(w.cutOff)
	defer cancel(nil)
	w.handling.Store(r.ID, cancel)
	defer w.handling.Delete(r.ID)
	limited, over := context.WithTimeout(cancellable, attemptTimeout)
	defer over()
	type result struct {
		body []byte
		err  error
	}
	results := make(chan result, 1)
	go func() {
		defer func() {
			if panicked := recover(); panicked != nil {
				results <- result{nil, fmt.Errorf("panic: %v", panicked)}
			}
		}()
		body, err := w.handler(limited, r)
		results <- result{body, err}
	}()
	select {
	case result := <-results:
		if errors.Is(context.Cause(limited), errCancelled) {
			return nil, errCancelled
		}
		return result.body, result.err
	case <-limited.Done():
		return nil, context.Cause(limited)
	}
}

func (w *Worker) conclude(r *Request, answer Answer) error {
	err := error(nil)
	if r.stored {
		answer, err = w.storeAnswer(r, answer)
	}
	if err == nil {
		err = w.bring(r, answer)
	}
	if errors.Is(err, errTooLarge) {
		return w.bury(r, "unstorable", err.Error(), r.Attempt+1)
	}
	if err != nil {
		return err
	}
	return w.ack(r)
}

// storeAnswer stores an answer and returns the one that counts: the first.
func (w *Worker) storeAnswer(r *Request, answer Answer) (Answer, error) {
	if len(answer.body) > answerMaxBytes {
		return answer, fmt.Errorf("%w: %d bytes, %d may be stored", errTooLarge, len(answer.body), answerMaxBytes)
	}
	for {
		err := w.publish(prefix+".reply."+r.ID, answer.headers, answer.body)
		if err == nil {
			return answer, nil
		}
		if strings.Contains(err.Error(), "per subject") {
			stored, err := w.storedAnswer(r)
			if err != nil || stored == nil {
				return answer, err
			}
			return *stored, nil
		}
		// No acknowledgement; or "maximum bytes": the result cache is full until answers expire.
		time.Sleep(time.Second)
	}
}

func (w *Worker) storedAnswer(r *Request) (*Answer, error) {
	subject := "$JS.API.DIRECT.GET.TIDE_REPLY." + prefix + ".reply." + r.ID
	reply, err := w.nc.Request(subject, nil, 5*time.Second)
	if err != nil {
		return nil, err
	}
	if reply.Header.Get("Status") == "404" {
		return nil, nil
	}
	return &Answer{own(reply.Header), reply.Data}, nil
}

// bring brings an answer to the client. It is stored already, or handed to the gateway.
func (w *Worker) bring(r *Request, answer Answer) error {
	if r.keyed {
		msg := &nats.Msg{Subject: prefix + ".answer." + r.ID, Header: answer.headers, Data: answer.body}
		if err := w.nc.PublishMsg(msg); err != nil {
			return err
		}
	}
	if r.later {
		return w.publishToUser(r, answer)
	}
	if r.awaited && !r.stored {
		return w.handOver(r, answer)
	}
	return nil
}

func (w *Worker) handOver(r *Request, answer Answer) error {
	if limit := int(w.nc.MaxPayload()); len(answer.body)+4096 > limit {
		return fmt.Errorf("%w: %d bytes, and the broker takes %d", errTooLarge, len(answer.body), limit)
	}
	over := r.acceptedAt
	if now := time.Now(); over.After(now) {
		over = now
	}
	over = over.Add(answerTimeout + 500*time.Millisecond)
	kept := false
	for asked := 1; ; asked++ {
		msg := &nats.Msg{Subject: prefix + ".answer." + r.ID, Header: answer.headers, Data: answer.body}
		if word, err := w.nc.RequestMsg(msg, time.Second); err == nil {
			switch string(word.Data) {
			case "taken", "known":
				return nil
			case "late":
				return w.publishToUser(r, answer)
			}
		}
		if asked > 1 && time.Now().After(over) {
			return w.publishToUser(r, answer)
		}
		if !kept && len(answer.body) <= answerMaxBytes {
			if _, err := w.storeAnswer(r, answer); err != nil {
				return err
			}
			kept = true
		}
		time.Sleep(300 * time.Millisecond)
	}
}

func (w *Worker) publishToUser(r *Request, answer Answer) error {
	if !r.hasUser {
		return nil
	}
	status, body := answer.headers.Get("Tide-Status"), answer.body
	if status == "error" {
		told := map[string]any{"code": number(answer.headers.Get("Tide-Code"), 100), "message": answer.headers.Get("Tide-Message")}
		if json.Valid(answer.body) {
			told["data"] = json.RawMessage(answer.body)
		}
		body, _ = json.Marshal(told)
	}
	id := r.ID + ".l"
	if redriven := r.own.Get("Tide-Redriven"); redriven != "" {
		id += ".d" + redriven
	}
	headers := nats.Header{"Nats-Msg-Id": {id}, "Tide-Tag-re": {r.ID}, "Tide-Tag-status": {status}}
	return w.store(prefix+".ch.user."+token(r.User), headers, body)
}

func (w *Worker) retry(r *Request, reason, failure string, failed int) error {
	if failed >= maxAttempts {
		return w.bury(r, reason, failure, failed)
	}
	delay := min(backoffCap, backoffBase<<min(failed-1, 20))
	return w.park(r, failed, delay/2+rand.N(delay/2), 0)
}

// park stores the request for its next delivery, then acknowledges this one.
func (w *Worker) park(r *Request, attempt int, delay time.Duration, suspect int) error {
	headers := own(r.own)
	headers.Del("Tide-Suspect")
	if suspect > 0 {
		headers.Set("Tide-Suspect", strconv.Itoa(suspect))
	}
	headers.Set("Nats-Msg-Id", fmt.Sprintf("%s.a%d.%s", r.ID, attempt, r.place))
	headers.Set("Nats-Schedule", "@at "+time.Now().Add(delay).UTC().Format("2006-01-02T15:04:05.000Z"))
	headers.Set("Nats-Schedule-Target", r.due())
	headers.Set("Tide-Attempt", strconv.Itoa(attempt))
	if err := w.store(prefix+".park."+r.ID, headers, r.Body); err != nil {
		return err
	}
	return w.ack(r)
}

// bury stores a dead letter, tells the client, and acknowledges.
func (w *Worker) bury(r *Request, reason, failure string, attempts int) error {
	if err := w.storeLetter(r, reason, failure, attempts); err != nil {
		return err
	}
	answer := r.error(deadLetter, fmt.Sprintf("failed for good, kept as a dead letter: %d attempts", attempts))
	if r.stored {
		var err error
		if answer, err = w.storeAnswer(r, answer); err != nil {
			return err
		}
	}
	if err := w.bring(r, answer); err != nil {
		return err
	}
	return w.ack(r)
}

func (w *Worker) storeLetter(r *Request, reason, failure string, attempts int) error {
	id := r.ID
	if id == "" {
		id = route
	}
	headers := own(r.own)
	headers.Set("Nats-Msg-Id", id+".dead."+r.place)
	headers.Set("Tide-Dead-Reason", reason)
	headers.Set("Tide-Dead-Error", line(failure))
	headers.Set("Tide-Dead-Attempts", strconv.Itoa(attempts))
	headers.Set("Tide-Dead-Subject", r.msg.Subject())
	return w.store(prefix+".dead."+token(service)+"."+token(route), headers, r.Body)
}

// store stores a message, for as long as it takes: its id makes repetitions harmless.
func (w *Worker) store(subject string, headers nats.Header, body []byte) error {
	for {
		err := w.publish(subject, headers, body)
		var refused *jetstream.APIError
		if err == nil || errors.As(err, &refused) || errors.Is(err, nats.ErrMaxPayload) {
			return err
		}
		time.Sleep(300 * time.Millisecond)
	}
}

func (w *Worker) publish(subject string, headers nats.Header, body []byte) error {
	limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := w.js.PublishMsg(limited, &nats.Msg{Subject: subject, Header: headers, Data: body})
	return err
}

// ack is the double ack: the broker confirms it.
func (w *Worker) ack(r *Request) error {
	err := error(nil)
	for range 5 {
		limited, cancel := context.WithTimeout(context.Background(), time.Second)
		err = r.msg.DoubleAck(limited)
		cancel()
		if err == nil {
			break
		}
	}
	return err
}

// token is a name as one token of a subject.
func token(name string) string {
	var text bytes.Buffer
	for _, b := range []byte(name) {
		if b == '_' || b == '-' || '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z' {
			text.WriteByte(b)
		} else {
			fmt.Fprintf(&text, "=%02X", b)
		}
	}
	if text.Len() > 120 {
		digest := sha256.Sum256([]byte(name))
		return "=h" + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(digest[:]))
	}
	if text.Len() == 0 {
		return "="
	}
	return text.String()
}

// own is a copy of the headers without those that the broker interprets.
func own(all nats.Header) nats.Header {
	own := nats.Header{}
	for name, values := range all {
		if !strings.HasPrefix(strings.ToLower(name), "nats-") {
			own[name] = values
		}
	}
	return own
}

// line is a text on one line, short enough for a header.
func line(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), 1024)], "")
}

func number(text string, usual int) int {
	if number, err := strconv.Atoi(text); err == nil {
		return number
	}
	return usual
}

func env(name, usual string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return usual
}
