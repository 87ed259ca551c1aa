// Calls a server by each of the targets that it is given.
const grpc = require('@grpc/grpc-js');

const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${process.env.TEST_CREDENTIAL}`);

function call(client) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 30000;
    client.makeUnaryRequest('/portcullis.v1.CatalogService/GetCatalog', (bytes) => bytes, (bytes) => bytes,
      Buffer.alloc(0), metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

(async () => {
  for (const target of process.argv.slice(2)) {
    const client = new grpc.Client(target, grpc.credentials.createInsecure());
    for (let calls = 0; calls < 3; calls += 1) await call(client);
    client.close();
    console.log('answered');
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
