// The handlers of this worker. These do what docs/worker-contract.md asks of a worker that is tested: replace them by yours.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	"github.com/nats-io/nuid"
)

type task struct {
	Do      *string         `json:"do"`
	Data    json.RawMessage `json:"data"`
	Ms      int             `json:"ms"`
	Times   *int            `json:"times"`
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Bytes   int             `json:"bytes"`
}

func handle(ctx context.Context, request *Request) ([]byte, error) {
	var task task
	if json.Unmarshal(request.Body, &task) != nil || task.Do == nil {
		return request.Body, nil
	}
	times := math.MaxInt
	if task.Times != nil {
		times = *task.Times
	}
	switch *task.Do {
	case "echo":
		return task.Data, nil
	case "sleep":
		select {
		case <-time.After(time.Duration(task.Ms) * time.Millisecond):
			return json.Marshal(map[string]int{"slept": task.Ms})
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "stamp":
		return json.Marshal(nuid.Next())
	case "fail", "crash":
		if request.Attempt >= times {
			return json.Marshal(map[string]int{"attempt": request.Attempt})
		}
		if *task.Do == "crash" {
			os.Exit(1)
		}
		return nil, errors.New("asked to fail")
	case "reject":
		return nil, Reject{task.Code, task.Message}
	case "large":
		return bytes.Repeat([]byte("x"), task.Bytes), nil
	}
	return nil, Reject{400, fmt.Sprintf("unknown task %q", *task.Do)}
}

func main() {
	if err := (&Worker{handler: handle}).Run(); err != nil {
		log.Fatal(err)
	}
}
