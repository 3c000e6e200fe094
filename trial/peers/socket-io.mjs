// A server over npm `socket.io` with connection state recovery: channels are rooms, a publication is the event `m`.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const { PORT, SECRET } = process.env;

function user(token) {
  const [head, body, signature] = token.split('.');
  const expected = createHmac('sha256', SECRET).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature ?? '', 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
  const claims = JSON.parse(Buffer.from(body, 'base64url'));
  return claims.exp * 1000 > Date.now() ? claims.sub : null;
}

const http = createServer();
const io = new Server(http, {
  transports: ['websocket'],
  serveClient: false,
  perMessageDeflate: false,
  connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: true },
});
io.use((socket, next) => {
  socket.data.user = user(socket.handshake.auth.token ?? '');
  next(socket.data.user ? undefined : new Error('invalid token'));
});
io.on('connection', (socket) => {
  if (!socket.recovered) socket.join(`#${socket.data.user}`);
  socket.on('subscribe', (channel, acknowledge) => {
    socket.join(channel);
    acknowledge();
  });
  socket.on('publish', (channel, data, acknowledge) => {
    io.to(channel).emit('m', data);
    acknowledge();
  });
});
http.listen({ host: '127.0.0.1', port: Number(PORT), backlog: 4096 });
